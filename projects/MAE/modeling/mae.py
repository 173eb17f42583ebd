"""The masked autoencoder: a ViT encoder on visible patches, a light decoder on all of them."""
import oneflow as flow
from oneflow import nn

from projects.MAE.modeling.encoder import ViTEncoder
from projects.MAE.modeling.global_tensors import in_float32, parameter, repeat_token
from projects.MAE.modeling.initialization import initialize
from projects.MAE.modeling.losses import masked_mse, reconstruction_target, squared_error
from projects.MAE.modeling.patches import unpatchify
from projects.MAE.modeling.pos_embed import sincos_pos_embed_2d
from projects.MAE.modeling.sizes import check_sizes, kept_patches


def shuffle(noise):
    """The order that noise [N, L] gives patches, and its inverse: int64 [N, L] both.

    The first of the order are kept: those with the smallest noise.
    """
    ids_shuffle = flow.argsort(noise, dim=1)
    return ids_shuffle, flow.argsort(ids_shuffle, dim=1)


class MaskedAutoencoderViT(ViTEncoder):
    """Masked autoencoder with a ViT backbone (He et al., arXiv 2111.06377).

    Args:
        img_size, patch_size: pixels along a side of the square input, and of a patch.
        in_chans: channels of the input.
        embed_dim, depth, num_heads: encoder width, blocks and attention heads.
        decoder_embed_dim, decoder_depth, decoder_num_heads: the same of the decoder.
        mlp_ratio: hidden width of a block's MLP over the block's width.
        norm_layer: called with (width, eps=1e-6, layer_idx=...) for the two final norms; LayerNorm
            by default.
        norm_pix_loss: normalise each target patch by its own mean and variance.
        mask_ratio: share of patches the encoder does not see.

    The weights are drawn from the seed of `flow.manual_seed`. A UserError tells of sizes that don't
    divide, or a mask_ratio that leaves nothing to see or predict.

    Example::

        model = MaskedAutoencoderViT(img_size=32, patch_size=4, embed_dim=64, depth=2, num_heads=4)
        losses = model(images, noise)["losses"]  # global tensors [N, 3, 32, 32], [N, 64]
    """

    def __init__(
        self,
        img_size=224,
        patch_size=16,
        in_chans=3,
        embed_dim=768,
        depth=12,
        num_heads=12,
        decoder_embed_dim=512,
        decoder_depth=8,
        decoder_num_heads=16,
        mlp_ratio=4.0,
        norm_layer=None,
        norm_pix_loss=False,
        mask_ratio=0.75,
    ):
        sizes = img_size, patch_size, in_chans, embed_dim, depth, num_heads, mlp_ratio
        super().__init__(*sizes, trains_pos_embed=False)
        check_sizes(img_size, patch_size, decoder_embed_dim, decoder_num_heads, prefix="decoder_")
        self.decoder_num_heads = decoder_num_heads
        self.norm_pix_loss = norm_pix_loss
        self.keep = kept_patches(self.num_patches, mask_ratio)
        norm_layer, last = norm_layer or self.layers.LayerNorm, depth + decoder_depth - 1
        self.norm = norm_layer(embed_dim, eps=1e-6, layer_idx=depth - 1)

        self.decoder_embed = self.layers.Linear(embed_dim, decoder_embed_dim, layer_idx=depth)
        self.mask_token = parameter((1, 1, decoder_embed_dim), layer_idx=depth)
        self.decoder_pos_embed = parameter(
            (1, 1 + self.num_patches, decoder_embed_dim), layer_idx=depth, requires_grad=False
        )
        self.decoder_blocks = nn.ModuleList(
            self.layers.TransformerLayer(
                decoder_embed_dim, decoder_num_heads, mlp_ratio, eps=1e-6, layer_idx=depth + i
            )
            for i in range(decoder_depth)
        )
        self.decoder_norm = norm_layer(decoder_embed_dim, eps=1e-6, layer_idx=last)
        pixels = patch_size**2 * in_chans
        self.decoder_pred = self.layers.Linear(decoder_embed_dim, pixels, layer_idx=last)
        fixed = {
            "pos_embed": sincos_pos_embed_2d(embed_dim, self.grid_size),
            "decoder_pos_embed": sincos_pos_embed_2d(decoder_embed_dim, self.grid_size),
        }
        initialize(self, seed=flow.initial_seed(), fixed=fixed)

    def unpatchify(self, patches):
        """[N, L, patch_size**2 * C] -> [N, C, H, W], the inverse of `patchify`."""
        return unpatchify(patches, self.patch_size, self.in_chans)

    def forward_encoder(self, images, noise):
        """Encode the visible patches.

        Args:
            images: float32 [N, C, H, W], normalised, or their patches [N, L, patch_size**2 * C].
            noise: float32 [N, L] in [0, 1); the int(L * (1 - mask_ratio)) smallest are kept.

        Returns:
            latent [N, 1 + keep, D]; mask float32 [N, L], 1 where a patch was removed;
            ids_restore int64 [N, L].
        """
        ids_shuffle, ids_restore = shuffle(noise)
        patches = self.patchify(images) if images.ndim == 4 else images
        x = self.embed_visible(patches, ids_shuffle[:, : self.keep])
        mask = (ids_restore >= self.keep).to(flow.float32)
        return self.norm(self.forward_blocks(x)), mask, ids_restore

    def forward_decoder(self, latent, ids_restore, ids=None):
        """Predict patches, [N, M, patch_size**2 * C].

        Args:
            latent: [N, 1 + keep, D].
            ids_restore: int64 [N, L], the place of each patch among those kept and removed.
            ids: int64 [N, M], the patches that are wanted, or None for all L.
        """
        placement = self.decoder_pos_embed.placement
        x = self.decoder_embed(latent.to_global(placement=placement))
        ids_restore = ids_restore.to_global(placement=placement)
        mask_tokens = repeat_token(self.mask_token, like=x, count=self.num_patches - self.keep)
        patches = flow.cat([x[:, 1:], mask_tokens], dim=1)
        patches = flow._C.batch_gather(patches, ids_restore)  # undo the shuffle
        x = flow.cat([x[:, :1], patches], dim=1) + self.decoder_pos_embed
        *blocks, last = self.decoder_blocks
        for block in blocks:
            x = block(x)
        x = last(x)[:, 1:] if ids is None else last(x, ids=ids + 1)  # without the class token
        return self.decoder_pred(self.decoder_norm(x))

    def forward_loss(self, patches, pred, mask):
        """The mean squared error on the removed patches: over all of them, and of each sample [N].

        Args:
            patches, pred: float32 [N, L, patch_size**2 * C].
            mask: float32 [N, L], 1 where a patch was removed.
        """
        target = self.target(patches).to_global(placement=pred.placement)
        return masked_mse(pred, target, mask.to_global(placement=pred.placement))

    def forward_loss_of(self, ids, patches, pred):
        """`forward_loss` of the removed patches ids [N, M] alone, pred [N, M, patch_size**2 * C]."""
        target = self.target(flow._C.batch_gather(patches, ids))
        return squared_error(pred, target.to_global(placement=pred.placement)).mean()

    def forward(self, images, noise):
        """Reconstruct the masked patches of a batch.

        Args:
            images: float32 [N, C, H, W], normalised.
            noise: float32 [N, L] in [0, 1), which decides the mask.

        Returns:
            In training {"losses": scalar}; in evaluation also "pred" [N, L, patch_size**2 * C],
            "mask" float32 [N, L] and "sample_losses" float32 [N].
        """
        patches = self.patchify(in_float32(images))  # the targets, too
        latent, mask, ids_restore = self.forward_encoder(patches, noise)
        if self.training:  # what is not masked has no part in the loss, and is not predicted
            ids = flow.argsort(ids_restore, dim=1)[:, self.keep :]
            pred = self.forward_decoder(latent, ids_restore, ids)
            return {"losses": self.forward_loss_of(ids, patches, pred)}
        pred = self.forward_decoder(latent, ids_restore)
        losses, sample_losses = self.forward_loss(patches, pred, mask)
        mask = mask.to_global(placement=pred.placement)
        return {"losses": losses, "pred": pred, "mask": mask, "sample_losses": sample_losses}

    def target(self, patches):
        """What the model learns to predict of patches [N, M, P]: their pixels, maybe normalised."""
        return reconstruction_target(patches, self.norm_pix_loss)
