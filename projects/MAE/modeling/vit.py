"""The ViT classifier that is finetuned from a pretrained encoder."""
import oneflow as flow

from projects.MAE.modeling.encoder import ViTEncoder
from projects.MAE.modeling.global_tensors import in_float32
from projects.MAE.modeling.initialization import initialize
from projects.MAE.modeling.losses import cross_entropy
from projects.MAE.modeling.pos_embed import sincos_pos_embed_2d


class VisionTransformer(ViTEncoder):
    """Vision Transformer classifier in the form the paper finetunes.

    Args:
        img_size, patch_size: pixels along a side of the square input, and of a patch.
        in_chans: channels of the input.
        embed_dim, depth, num_heads: width, blocks and attention heads.
        mlp_ratio: hidden width of a block's MLP over the block's width.
        drop_path_rate: stochastic depth of the last block; it grows linearly from 0.
        global_pool: average the patch tokens, then `fc_norm`; otherwise `norm`, then the class
            token.
        num_classes: width of the head; 0 leaves the head out, for features alone.
        loss_func: called with (logits float32 [N, classes], labels); `cross_entropy` by default, which
            takes class indices and probabilities.

    The weights are drawn from the seed of `flow.manual_seed`.
    """

    head_std = 2e-5  # of the head's initial weights

    def __init__(
        self,
        img_size=224,
        patch_size=16,
        in_chans=3,
        embed_dim=768,
        depth=12,
        num_heads=12,
        mlp_ratio=4.0,
        drop_path_rate=0.0,
        global_pool=True,
        num_classes=1000,
        loss_func=None,
    ):
        super().__init__(
            img_size, patch_size, in_chans, embed_dim, depth, num_heads, mlp_ratio, drop_path_rate
        )
        self.global_pool, self.num_classes = global_pool, num_classes
        self.loss_func = loss_func or cross_entropy
        final_norm = self.layers.LayerNorm(embed_dim, eps=1e-6, layer_idx=depth - 1)
        setattr(self, "fc_norm" if global_pool else "norm", final_norm)
        if num_classes:
            self.head = self.layers.Linear(embed_dim, num_classes, layer_idx=depth - 1)
        fixed = {"pos_embed": sincos_pos_embed_2d(embed_dim, self.grid_size)}
        initialize(self, seed=flow.initial_seed(), head_std=self.head_std, fixed=fixed)

    def forward_tokens(self, images, drop_path_noise=None, blocks=None, **wanted):
        """float32 [N, C, H, W] -> [N, 1 + L, D] before the final norm; see `forward_blocks`."""
        x = self.embed(self.patchify(images))
        return self.forward_blocks(x, drop_path_noise, blocks, **wanted)

    def forward_features(self, images, drop_path_noise=None):
        """float32 [N, C, H, W] -> [N, D], the features the head classifies."""
        if self.global_pool:
            return self.fc_norm(self.forward_tokens(images, drop_path_noise, pool=True))
        class_token = self.forward_tokens(images, drop_path_noise, ids=slice(0, 1))
        return self.norm(class_token)[:, 0]

    def forward(self, images, labels=None, drop_path_noise=None):
        """Classify images.

        Args:
            images: float32 [N, C, H, W], normalised.
            labels: int64 [N] or float32 [N, classes]; needed in training.
            drop_path_noise: float32 [N, 2 * depth] in [0, 1), the draws of stochastic depth.

        Returns:
            In training {"losses": scalar}; in evaluation {"prediction_scores": float32 [N, classes]}.
        """
        logits = in_float32(self.head(self.forward_features(images, drop_path_noise)))
        if self.training and labels is not None:
            return {"losses": self.loss_func(logits, labels.to_global(placement=logits.placement))}
        return {"prediction_scores": logits}
