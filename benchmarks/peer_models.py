"""The peers in plain PyTorch: a masked autoencoder, and how timm's and transformers' are made.

The autoencoder is the paper's (He et al., arXiv 2111.06377) with the parameter names of the
released weights. It is written for speed, as far as plain PyTorch goes: fused attention, and only
visible patches are embedded.
"""
import sys

import torch
import torch.nn.functional as F
from torch import nn


class Attention(nn.Module):
    def __init__(self, width, heads):
        super().__init__()
        self.heads = heads
        self.qkv = nn.Linear(width, 3 * width)
        self.proj = nn.Linear(width, width)

    def forward(self, x):
        n, length, width = x.shape
        qkv = self.qkv(x).reshape(n, length, 3, self.heads, width // self.heads)
        query, key, value = qkv.permute(2, 0, 3, 1, 4)  # each [N, heads, L, width / heads]
        x = F.scaled_dot_product_attention(query, key, value)
        return self.proj(x.transpose(1, 2).reshape(n, length, width))


class Mlp(nn.Module):
    def __init__(self, width, hidden):
        super().__init__()
        self.fc1, self.fc2 = nn.Linear(width, hidden), nn.Linear(hidden, width)

    def forward(self, x):
        return self.fc2(F.gelu(self.fc1(x)))


class Block(nn.Module):
    """A pre-norm transformer block."""

    def __init__(self, width, heads):
        super().__init__()
        self.norm1, self.attn = nn.LayerNorm(width, eps=1e-6), Attention(width, heads)
        self.norm2, self.mlp = nn.LayerNorm(width, eps=1e-6), Mlp(width, 4 * width)

    def forward(self, x):
        x = x + self.attn(self.norm1(x))
        return x + self.mlp(self.norm2(x))


class PatchProjection(nn.Module):
    """A linear projection of patches, stored as the usual strided convolution."""

    def __init__(self, patch_size, width):
        super().__init__()
        self.proj = nn.Conv2d(3, width, patch_size, stride=patch_size)

    def forward(self, patches):
        """[N, K, p * p * 3], pixels in (row, column, channel) order -> [N, K, width]."""
        weight = self.proj.weight.permute(0, 2, 3, 1).flatten(1)
        return F.linear(patches, weight, self.proj.bias)


class MaskedAutoencoder(nn.Module):
    """Masked autoencoder; the sizes default to ViT-Base. 4 hidden units a unit of width.

    The position embeddings are zero here: give them, as every weight, by `load_state_dict`. Their
    values have no influence on speed.
    """

    def __init__(
        self,
        img_size=224,
        patch_size=16,
        width=768,
        depth=12,
        heads=12,
        decoder_width=512,
        decoder_depth=8,
        decoder_heads=16,
        mask_ratio=0.75,
    ):
        super().__init__()
        patches = (img_size // patch_size) ** 2
        self.patch_size, self.keep = patch_size, int(patches * (1 - mask_ratio))
        self.patch_embed = PatchProjection(patch_size, width)
        self.cls_token = nn.Parameter(torch.zeros(1, 1, width))
        self.pos_embed = nn.Parameter(torch.zeros(1, 1 + patches, width), requires_grad=False)
        self.blocks = nn.ModuleList(Block(width, heads) for _ in range(depth))
        self.norm = nn.LayerNorm(width, eps=1e-6)
        self.decoder_embed = nn.Linear(width, decoder_width)
        self.mask_token = nn.Parameter(torch.zeros(1, 1, decoder_width))
        self.decoder_pos_embed = nn.Parameter(
            torch.zeros(1, 1 + patches, decoder_width), requires_grad=False
        )
        self.decoder_blocks = nn.ModuleList(
            Block(decoder_width, decoder_heads) for _ in range(decoder_depth)
        )
        self.decoder_norm = nn.LayerNorm(decoder_width, eps=1e-6)
        self.decoder_pred = nn.Linear(decoder_width, patch_size**2 * 3)

    def patchify(self, images):
        """[N, 3, H, W] -> [N, L, p * p * 3], pixels in (row, column, channel) order."""
        p = self.patch_size
        n, c, h, w = images.shape
        x = images.reshape(n, c, h // p, p, w // p, p).permute(0, 2, 4, 3, 5, 1)
        return x.reshape(n, -1, p * p * c)

    def encode(self, patches, noise):
        """-> latent [N, 1 + keep, width], mask [N, L], places of the patches [N, L]."""
        order = noise.argsort(dim=1)
        restore = order.argsort(dim=1)
        kept = order[:, : self.keep]
        x = self.patch_embed(pick(patches, kept)) + self.pos_embed[0, 1:][kept]
        token = (self.cls_token + self.pos_embed[:, :1]).expand(len(x), -1, -1)
        x = torch.cat([token, x], dim=1)
        for block in self.blocks:
            x = block(x)
        return self.norm(x), (restore >= self.keep).float(), restore

    def decode(self, latent, restore):
        """-> predicted patches [N, L, p * p * 3]."""
        x = self.decoder_embed(latent)
        n, length = restore.shape
        mask_tokens = self.mask_token.expand(n, length - self.keep, -1)
        patches = pick(torch.cat([x[:, 1:], mask_tokens], dim=1), restore)
        x = torch.cat([x[:, :1], patches], dim=1) + self.decoder_pos_embed
        for block in self.decoder_blocks:
            x = block(x)
        return self.decoder_pred(self.decoder_norm(x))[:, 1:]

    def forward(self, images, noise):
        """images [N, 3, H, W], noise [N, L] -> the loss on normalised, masked patches."""
        patches = self.patchify(images)
        latent, mask, restore = self.encode(patches, noise)
        pred = self.decode(latent, restore)
        variance, mean = torch.var_mean(patches, dim=-1, keepdim=True)
        target = (patches - mean) / (variance + 1e-6).sqrt()
        error = ((pred - target) ** 2).mean(dim=-1)  # [N, L]
        return (error * mask).sum() / mask.sum()


def pick(x, index):
    """Rows index [N, K] of x [N, L, D] -> [N, K, D]."""
    return x.gather(1, index[:, :, None].expand(-1, -1, x.shape[-1]))


def transformers_autoencoder():
    """transformers' ViTMAE of size Base, called as `MaskedAutoencoder` is."""
    import_torchvision()
    import transformers

    class Loss(nn.Module):
        def __init__(self):
            super().__init__()
            config = transformers.ViTMAEConfig(norm_pix_loss=True, layer_norm_eps=1e-6)
            self.model = transformers.ViTMAEForPreTraining(config)

        def forward(self, images, noise):
            return self.model(images, noise=noise).loss

    return Loss()


def import_torchvision():
    """Import torchvision beside a CPU build of torch, because timm and transformers import it.

    Its Python files declare how two of its C++ operators behave and fail where these are absent: a
    wheel built for CUDA does not load them beside a CPU build of torch. Declaring the two is
    enough; a ViT calls neither.
    """
    try:
        import torchvision  # noqa: F401
    except RuntimeError:
        for name in [n for n in sys.modules if n.split(".")[0] == "torchvision"]:
            del sys.modules[name]
        schema = "(Tensor dets, Tensor scores, float iou_threshold) -> Tensor"
        for name in ("nms", "qnms"):
            torch.library.define(f"torchvision::{name}", schema)


def timm_classifier(**sizes):
    """timm's ViT as the paper finetunes it: average of the patch tokens, then fc_norm."""
    import_torchvision()
    import timm

    return timm.create_model("vit_base_patch16_224", global_pool="avg", **sizes)


def soft_cross_entropy(logits, targets):
    """Mean cross entropy of logits and probabilities [N, classes]."""
    return -(targets * F.log_softmax(logits, dim=-1)).sum(dim=-1).mean()
