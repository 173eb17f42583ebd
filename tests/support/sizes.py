"""Configurations of models that several tests need."""
from omegaconf import OmegaConf

TINY = dict(
    img_size=32, patch_size=4, in_chans=3, embed_dim=64, depth=3, num_heads=4, mlp_ratio=4.0
)
TINY_MAE = OmegaConf.create(
    dict(
        TINY,
        decoder_embed_dim=32,
        decoder_depth=2,
        decoder_num_heads=4,
        norm_pix_loss=True,
        mask_ratio=0.75,
    )
)
TINY_VIT = OmegaConf.create(dict(TINY, drop_path_rate=0.1, global_pool=True, num_classes=5))
# MAE ViT-Base/16 of the paper.
MAE_BASE = OmegaConf.merge(
    TINY_MAE,
    dict(img_size=224, patch_size=16, embed_dim=768, depth=12, num_heads=12),
    dict(decoder_embed_dim=512, decoder_depth=8, decoder_num_heads=16),
)
