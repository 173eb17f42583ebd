"""The three sizes of the paper, and what of the recipes goes with the size."""
from ..common.node import node

vit = node(
    size="base",
    base=dict(
        patch_size=16,
        embed_dim=768,
        depth=12,
        num_heads=12,
        finetune=dict(base_lr=5e-4, epochs=100, layer_decay=0.65, drop_path=0.1),
        linprobe=dict(epochs=90),
    ),
    large=dict(
        patch_size=16,
        embed_dim=1024,
        depth=24,
        num_heads=16,
        finetune=dict(base_lr=1e-3, epochs=50, layer_decay=0.75, drop_path=0.2),
        linprobe=dict(epochs=50),
    ),
    huge=dict(
        patch_size=14,
        embed_dim=1280,
        depth=32,
        num_heads=16,
        finetune=dict(base_lr=1e-3, epochs=50, layer_decay=0.75, drop_path=0.3),
        linprobe=dict(epochs=50),
    ),
)
