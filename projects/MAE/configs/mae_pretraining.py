"""Pretrain a masked autoencoder on ImageNet-1k: the paper's recipe.

    bash tools/train.sh projects/MAE/train_net.py projects/MAE/configs/mae_pretraining.py 8 \
        dataloader.train.dataset.0.root=/data/imagenet

8 GPUs make the global batch 4096 (8 * 64 * 8 accumulation steps). Another size: vit.size=large.
The published weights were trained for 1600 epochs: train.train_epoch=1600.
"""
from libai.config import LazyCall
from oneflow.optim import AdamW

from projects.MAE.data.build import build_image_test_loader, build_image_train_loader
from projects.MAE.data.datasets import PretrainingDataset
from projects.MAE.data.transforms import (
    CenterCrop,
    Compose,
    RandomHorizontalFlip,
    RandomResizedCrop,
    Resize,
)
from projects.MAE.modeling.mae import MaskedAutoencoderViT
from projects.MAE.optim.param_groups import param_groups_weight_decay
from projects.MAE.optim.schedule import warmup_cosine_lr

from .common.node import node
from .common.to_array import to_array
from .common.train import data, graph, train
from .models.vit import vit

vit.size = "base"  # base, large or huge
data.exif = "ignore"  # as the authors; the published weights and accuracies were made so

# To go on from weights with their decoder: finetune.path=... is a checkpoint of this recipe, the
# authors' *_full.pth or the like. enable=None: where a path is set.
# ema=True takes the averaged weights of a file that has both.
finetune = node(enable=None, weight_style=None, path="", ema=False)

model = LazyCall(MaskedAutoencoderViT)(
    img_size="${oc.select:vit.${vit.size}.img_size,224}",
    patch_size="${vit.${vit.size}.patch_size}",
    in_chans=3,
    embed_dim="${vit.${vit.size}.embed_dim}",
    depth="${vit.${vit.size}.depth}",
    num_heads="${vit.${vit.size}.num_heads}",
    decoder_embed_dim=512,
    decoder_depth=8,
    decoder_num_heads=16,
    mlp_ratio=4.0,
    norm_pix_loss=True,
    mask_ratio=0.75,
)

dataloader = node(
    train=LazyCall(build_image_train_loader)(
        dataset=[
            LazyCall(PretrainingDataset)(
                root="./dataset",
                train=True,
                seed="${train.seed}",
                on_error="${oc.select:data.on_error,raise}",
                exif="${oc.select:data.exif,apply}",
                bits="${oc.select:data.bits,null}",
                img_size="${model.img_size}",
                patch_size="${model.patch_size}",
                transform=LazyCall(Compose)(
                    transforms=[
                        LazyCall(RandomResizedCrop)(size="${model.img_size}", scale=[0.2, 1.0]),
                        LazyCall(RandomHorizontalFlip)(p=0.5),
                        to_array(),
                    ]
                ),
            )
        ],
        num_workers=10,
        seed="${train.seed}",
    ),
    test=[
        LazyCall(build_image_test_loader)(
            dataset=LazyCall(PretrainingDataset)(
                root="${dataloader.train.dataset.0.root}",
                train=False,
                seed="${train.seed}",
                on_error="${oc.select:data.on_error,raise}",
                exif="${oc.select:data.exif,apply}",
                bits="${oc.select:data.bits,null}",
                img_size="${model.img_size}",
                patch_size="${model.patch_size}",
                transform=LazyCall(Compose)(
                    transforms=[
                        LazyCall(Resize)(size="${model.img_size}", crop_ratio=None),
                        LazyCall(CenterCrop)(size="${model.img_size}"),
                        to_array(),
                    ]
                ),
            ),
            num_workers=10,
        )
    ],
)

optim = LazyCall(AdamW)(
    params=LazyCall(param_groups_weight_decay)(weight_decay=0.05),
    lr=None,  # train.base_lr * global batch / 256
    betas=[0.9, 0.95],
)

train.output_dir = "output/mae_pretraining"
train.base_lr = 1.5e-4
train.train_micro_batch_size = 64
train.num_accumulation_steps = 8
train.train_epoch = 800
train.warmup_epoch = 40
train.scheduler = LazyCall(warmup_cosine_lr)(min_lr=0.0)
train.amp.enabled = True
train.checkpointer.save_model_after_n_epoch = 20
train.visualize.after_n_epoch = 20
train.evaluation.enabled = False  # needs val/; --eval-only gives the loss there
train.evaluation.eval_metric, train.evaluation.eval_mode = "reconstruction_loss", "min"
