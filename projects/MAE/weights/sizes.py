"""What kind of ViT a set of tensors is, and of which size: read from names and shapes."""
import math
import re

import numpy as np

from projects.MAE.errors import UserError
from projects.MAE.modeling.pos_embed import sincos_pos_embed_2d
from projects.MAE.modeling.sizes import Sizes, shapes_of

# (width, depth) of the models whose number of heads is a matter of record: the paper's three and
# timm's two small ones. The number can't be read from tensors.
KNOWN_HEADS = {(192, 12): 3, (384, 12): 6, (768, 12): 12, (1024, 24): 16, (1280, 32): 16}
# MoCo v3's has another number, and position embeddings of its own: the row first.
MOCO, MOCO_SIZE = "MoCo v3's ViT-S", (384, 12)
KNOWN_DECODER_HEADS = {(512, 8): 16}
BLOCK_PARTS = ("norm1", "attn.qkv", "attn.proj", "norm2", "mlp.fc1", "mlp.fc2")
NAME = re.compile(
    r"^(cls_token|pos_embed|mask_token|decoder_pos_embed"
    r"|feature_norm\.running_(mean|var)"
    r"|(patch_embed\.proj|norm|fc_norm|head|pooler\.dense|decoder_embed|decoder_norm|decoder_pred"
    r"|(decoder_)?blocks\.\d+\.(" + "|".join(re.escape(p) for p in BLOCK_PARTS) + r"))"
    r"\.(weight|bias))$"
)


def check_names(state, source):
    """Raise a UserError unless every tensor is one of the authors' models, timm's plain ViT or a probe."""
    if "cls_token" not in state or "patch_embed.proj.weight" not in state:
        some = ", ".join(list(state)[:3]) or "none"
        known = "(the authors', timm's, or transformers' ViT or ViTMAE)"
        what = f"not the weights of a ViT in a known layout {known}; its tensors are {some}, ..."
        raise UserError(what, path=source)
    check_token(state, "cls_token", source)
    if "mask_token" in state:
        check_token(state, "mask_token", source)
    for name in state:
        if not NAME.match(name):
            what = f"the tensor {name} has no place in a plain ViT; is it a variant?"
            raise UserError(what, path=source)


def check_token(state, name, source):
    """Raise a UserError unless a class or mask token has three axes, the last its width."""
    if state[name].ndim != 3 or not state[name].size:
        raise UserError(f"{name} has shape {state[name].shape}, expected (1, 1, width)", path=source)


def sizes_of(state, source):
    """The Sizes of a whole model, {name: array} in the authors' names.

    Raises:
        UserError: a tensor is missing, left over, of an unexpected shape, or not finite.
    """
    check_names(state, source)
    embed_dim = state["cls_token"].shape[-1]
    projection = state["patch_embed.proj.weight"]
    if projection.ndim != 4 or projection.shape[2] != projection.shape[3]:
        raise UserError(f"patch_embed.proj.weight has shape {projection.shape}", path=source)
    patch_size = projection.shape[-1]
    has_decoder = any(n.startswith(("decoder_", "mask_token")) for n in state)
    decoder_dim = _width(state, "mask_token", source, -1) if has_decoder else None
    is_probe = any(n.startswith("feature_norm.") for n in state)
    has_head = is_probe or any(n.startswith("head.") for n in state)
    is_pooled = "fc_norm.weight" in state  # timm's encoders may be, too
    kind = "probe" if is_probe else "classifier" if has_head else "encoder"
    sizes = Sizes(
        parts="full" if has_decoder else kind,
        img_size=_grid(_need(state, "pos_embed", source), source) * patch_size,
        patch_size=patch_size,
        in_chans=projection.shape[1],
        embed_dim=embed_dim,
        depth=_depth(state, "blocks."),
        mlp_width=_width(state, "blocks.0.mlp.fc1.weight", source),
        num_classes=_width(state, "head.weight", source) if has_head else None,
        global_pool=is_pooled if has_head else is_pooled and not has_decoder or None,
        decoder_embed_dim=decoder_dim,
        decoder_depth=_depth(state, "decoder_blocks.") if has_decoder else None,
        decoder_mlp_width=(
            _width(state, "decoder_blocks.0.mlp.fc1.weight", source) if has_decoder else None
        ),
    )
    expected = shapes_of(sizes)
    for name, shape in expected.items():
        if _need(state, name, source).shape != shape:
            raise UserError(f"{name} has shape {state[name].shape}, expected {shape}", path=source)
        check_finite(state[name], name, source)
    if is_probe and (state["feature_norm.running_var"] < 0).any():
        raise UserError("feature_norm.running_var is a variance, and holds negative numbers", path=source)
    left = [name for name in state if name not in expected and not name.startswith("pooler.")]
    if left:
        raise UserError(f"unexpected tensor {left[0]} in {sizes.parts} weights", path=source)
    return sizes


def check_finite(array, name, source):
    """Raise a UserError where an array holds NaN or infinity."""
    if not np.isfinite(array).all():
        bad = int(array.size - np.isfinite(array).sum())
        raise UserError(f"{name} holds {bad} numbers that are NaN or infinite", path=source)


def known_heads(state):
    """{"num_heads", "decoder_num_heads"} of the models of record, by width and depth, for a
    {name: array} in the authors' names or in LiBai's."""
    found = {}
    for key, token, blocks, table in (
        ("num_heads", "cls_token", "blocks.", KNOWN_HEADS),
        ("decoder_num_heads", "mask_token", "decoder_blocks.", KNOWN_DECODER_HEADS),
    ):
        is_there = token in state and state[token].ndim
        size = (state[token].shape[-1], _depth(state, blocks)) if is_there else None
        if size in table:
            found[key] = table[size]
    return found


def is_moco(state, words, arch):
    """Whether {authors' name: array} are of MoCo v3's ViT-S, which has 12 heads of its width of 384.

    Its files say so (words of its prefixes, the entry arch), or its fixed position embeddings:
    the paper's with the row in the first half of the channels, the column in the second.
    """
    token, embedding = state.get("cls_token"), state.get("pos_embed")
    width = token.shape[-1] if token is not None and token.ndim else None
    if (width, _depth(state, "blocks.")) != MOCO_SIZE:
        return False
    if words & {"base_encoder", "momentum_encoder"} or isinstance(arch, str) and arch == "vit_small":
        return True
    side = math.isqrt(max(embedding.shape[1] - 1, 0)) if np.ndim(embedding) == 3 else 0
    fixed = np.roll(sincos_pos_embed_2d(width, side), width // 2, axis=1)[None] if side else None
    return side > 1 and fixed.shape == embedding.shape and np.allclose(embedding, fixed, atol=1e-3)


def _width(state, name, source, axis=0):
    array = _need(state, name, source)
    if not array.ndim:
        raise UserError(f"{name} has no shape", path=source)
    return array.shape[axis]


def _need(state, name, source):
    if name not in state:
        raise UserError(f"the tensor {name} is missing; is the file complete?", path=source)
    return state[name]


def _depth(state, prefix):
    # Where a number is left out, its tensors are missing.
    return len({n.split(".")[1] for n in state if n.startswith(prefix)})


def _grid(pos_embed, source):
    side = math.isqrt(pos_embed.shape[1] - 1) if pos_embed.ndim == 3 else 0
    if not side or side**2 + 1 != pos_embed.shape[1]:
        what = f"pos_embed has shape {pos_embed.shape}, not a class token and a square grid"
        raise UserError(what, path=source)
    return side
