"""Sizes of a ViT, and the arithmetic of them: no tensor is made here."""
import collections

from projects.MAE.errors import UserError

Sizes = collections.namedtuple(
    "Sizes",
    "parts img_size patch_size in_chans embed_dim depth mlp_width num_classes global_pool "
    "decoder_embed_dim decoder_depth decoder_mlp_width",
)
Sizes.__doc__ = """The kind and sizes of a ViT.

parts is "encoder", "full" (with the decoder), "classifier" or "probe" (a classifier behind a batch
normalisation, of linear probing); what a kind has not is None.
"""


def shapes_of(sizes):
    """{name: shape} of a model of the given Sizes, in the order of the authors' files."""
    width, patch = sizes.embed_dim, sizes.patch_size
    tokens = 1 + (sizes.img_size // patch) ** 2
    shapes = {"cls_token": (1, 1, width), "pos_embed": (1, tokens, width)}
    if sizes.parts == "full":
        shapes["mask_token"] = (1, 1, sizes.decoder_embed_dim)
        shapes["decoder_pos_embed"] = (1, tokens, sizes.decoder_embed_dim)
    shapes["patch_embed.proj.weight"] = (width, sizes.in_chans, patch, patch)
    shapes["patch_embed.proj.bias"] = (width,)
    for i in range(sizes.depth):
        shapes.update(_block_shapes(f"blocks.{i}", width, sizes.mlp_width))
    shapes.update(_norm_shapes("fc_norm" if sizes.global_pool else "norm", width))
    if sizes.parts == "probe":
        shapes["feature_norm.running_mean"] = shapes["feature_norm.running_var"] = (width,)
    if sizes.parts in ("classifier", "probe"):
        shapes.update(_linear_shapes("head", width, sizes.num_classes))
    if sizes.parts == "full":
        decoder = sizes.decoder_embed_dim
        shapes.update(_linear_shapes("decoder_embed", width, decoder))
        for i in range(sizes.decoder_depth):
            shapes.update(_block_shapes(f"decoder_blocks.{i}", decoder, sizes.decoder_mlp_width))
        shapes.update(_norm_shapes("decoder_norm", decoder))
        shapes.update(_linear_shapes("decoder_pred", decoder, patch**2 * sizes.in_chans))
    return shapes


def _linear_shapes(name, inputs, outputs):
    return {f"{name}.weight": (outputs, inputs), f"{name}.bias": (outputs,)}


def _norm_shapes(name, width):
    return {f"{name}.weight": (width,), f"{name}.bias": (width,)}


def _block_shapes(name, width, mlp_width):
    return {
        **_norm_shapes(f"{name}.norm1", width),
        **_linear_shapes(f"{name}.attn.qkv", width, 3 * width),
        **_linear_shapes(f"{name}.attn.proj", width, width),
        **_norm_shapes(f"{name}.norm2", width),
        **_linear_shapes(f"{name}.mlp.fc1", width, mlp_width),
        **_linear_shapes(f"{name}.mlp.fc2", mlp_width, width),
    }


def kept_patches(num_patches, mask_ratio):
    """int(L * (1 - mask_ratio)), the patches that are seen; a UserError for none or all."""
    keep = int(num_patches * (1 - mask_ratio))
    if not (0 < mask_ratio < 1 and 0 < keep < num_patches):
        raise UserError(
            f"it leaves {max(min(keep, num_patches), 0)} of {num_patches} patches visible",
            key="model.mask_ratio",
            value=mask_ratio,
            way_out="choose a ratio between 0 and 1 (the paper's is 0.75)",
        )
    return keep


def check_sizes(img_size, patch_size, embed_dim, num_heads, prefix=""):
    """Raise a UserError for an image the patches don't tile, or heads that don't share the width."""
    if img_size % patch_size:
        near = img_size // patch_size * patch_size or patch_size
        raise UserError(
            f"model.img_size={img_size} is not divisible by model.patch_size={patch_size}: "
            f"choose {near} or {near + patch_size}"
        )
    if embed_dim % num_heads or embed_dim % 4:
        raise UserError(
            f"model.{prefix}embed_dim={embed_dim} must be divisible by 4 and by "
            f"model.{prefix}num_heads={num_heads}"
        )
