"""Images as patches, and back; the embedding of patches."""
import math

import oneflow as flow
from libai.utils import distributed as dist
from oneflow import nn

from projects.MAE.modeling.global_tensors import broadcast_sbp


def patchify(images, patch_size):
    """[N, C, H, W] -> [N, L, patch_size**2 * C], pixels of a patch in (row, column, channel)."""
    n, c, h, w = images.shape
    p = patch_size
    x = images.reshape(n, c, h // p, p, w // p, p)
    x = x.permute(0, 2, 4, 3, 5, 1)  # [N, H/p, W/p, p, p, C]
    return x.reshape(n, (h // p) * (w // p), p * p * c)


def unpatchify(patches, patch_size, in_chans):
    """[N, L, patch_size**2 * C] of a square image -> [N, C, H, W]."""
    n, length, _ = patches.shape
    p, side = patch_size, math.isqrt(length)
    x = patches.reshape(n, side, side, p, p, in_chans)
    x = x.permute(0, 5, 1, 3, 2, 4)  # [N, C, H/p, p, W/p, p]
    return x.reshape(n, in_chans, side * p, side * p)


class PatchEmbed(nn.Module):
    """Linear projection of patches, with the weights of the usual strided convolution.

    `proj.weight` is [embed_dim, in_chans, patch_size, patch_size], as in every ViT checkpoint.
    Projecting patches instead of convolving an image lets the encoder embed visible ones only.
    """

    def __init__(self, patch_size, in_chans, embed_dim, *, layer_idx):
        super().__init__()
        self.proj = nn.Conv2d(in_chans, embed_dim, patch_size, stride=patch_size).to_global(
            sbp=broadcast_sbp(), placement=dist.get_layer_placement(layer_idx)
        )

    def forward(self, patches):
        """[N, K, patch_size**2 * in_chans] as `patchify` orders them -> [N, K, embed_dim]."""
        embed_dim = self.proj.weight.shape[0]
        weight = self.proj.weight.permute(2, 3, 1, 0).reshape(-1, embed_dim)
        return flow.matmul(patches, weight) + self.proj.bias
