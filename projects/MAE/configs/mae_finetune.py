"""Finetune a pretrained encoder on ImageNet-1k: the paper's recipe.

    bash tools/train.sh projects/MAE/train_net.py projects/MAE/configs/mae_finetune.py 8 \
        dataloader.train.dataset.0.root=/data/imagenet finetune.path=output/mae_pretraining

8 GPUs make the global batch 1024 (8 * 32 * 4 accumulation steps). Another size: vit.size=large;
base rate, epochs, layer decay and drop path follow it. Published results of the paper's weights:
83.66 top-1 with Base, 85.95 with Large, 86.93 with Huge.
"""
from libai.config import LazyCall
from oneflow.optim import AdamW

from projects.MAE.data.build import build_image_test_loader, build_image_train_loader
from projects.MAE.data.datasets import ClassificationDataset
from projects.MAE.data.mixup import Mixup
from projects.MAE.data.rand_augment import RandAugment
from projects.MAE.data.random_erasing import RandomErasing
from projects.MAE.data.transforms import (
    CenterCrop,
    Compose,
    RandomHorizontalFlip,
    RandomResizedCrop,
    Resize,
)
from projects.MAE.modeling.vit import VisionTransformer
from projects.MAE.optim.param_groups import param_groups_lrd
from projects.MAE.optim.schedule import warmup_cosine_lr

from .common.node import node
from .common.to_array import MEAN, to_array
from .common.train import data, graph, train
from .models.vit import vit

vit.size = "base"  # base, large or huge
data.exif = "ignore"  # as the authors; the published weights and accuracies were made so

# Where the encoder comes from: a run of mae_pretraining.py, a file of the authors, timm or
# transformers. weight_style="oneflow" or "pytorch" checks what it is. enable=False: from scratch.
# ema=True takes the averaged weights of a file that has both.
finetune = node(enable=True, weight_style=None, path="", ema=False)

model = LazyCall(VisionTransformer)(
    img_size="${oc.select:vit.${vit.size}.img_size,224}",
    patch_size="${vit.${vit.size}.patch_size}",
    in_chans=3,
    embed_dim="${vit.${vit.size}.embed_dim}",
    depth="${vit.${vit.size}.depth}",
    num_heads="${vit.${vit.size}.num_heads}",
    mlp_ratio=4.0,
    drop_path_rate="${vit.${vit.size}.finetune.drop_path}",
    global_pool=True,
    num_classes=1000,
)

dataloader = node(
    train=LazyCall(build_image_train_loader)(
        dataset=[
            LazyCall(ClassificationDataset)(
                root="./dataset",
                train=True,
                seed="${train.seed}",
                on_error="${oc.select:data.on_error,raise}",
                exif="${oc.select:data.exif,apply}",
                bits="${oc.select:data.bits,null}",
                depth="${model.depth}",
                drop_path_rate="${model.drop_path_rate}",
                transform=LazyCall(Compose)(
                    transforms=[
                        LazyCall(RandomResizedCrop)(size="${model.img_size}", scale=[0.08, 1.0]),
                        LazyCall(RandomHorizontalFlip)(p=0.5),
                        LazyCall(RandAugment)(
                            num_layers=2, magnitude=9, magnitude_std=0.5, mean=MEAN
                        ),
                        to_array(),
                        LazyCall(RandomErasing)(probability=0.25),
                    ]
                ),
            )
        ],
        mixup=LazyCall(Mixup)(
            mixup_alpha=0.8,
            cutmix_alpha=1.0,
            prob=1.0,
            switch_prob=0.5,
            label_smoothing=0.1,
            num_classes="${model.num_classes}",
        ),
        num_workers=10,
        seed="${train.seed}",
    ),
    test=[
        LazyCall(build_image_test_loader)(
            dataset=LazyCall(ClassificationDataset)(
                root="${dataloader.train.dataset.0.root}",
                train=False,
                seed="${train.seed}",
                on_error="${oc.select:data.on_error,raise}",
                exif="${oc.select:data.exif,apply}",
                bits="${oc.select:data.bits,null}",
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
    params=LazyCall(param_groups_lrd)(
        weight_decay=0.05, layer_decay="${vit.${vit.size}.finetune.layer_decay}"
    ),
    lr=None,  # train.base_lr * global batch / 256
    betas=[0.9, 0.999],
)

train.output_dir = "output/mae_finetune"
train.base_lr = "${vit.${vit.size}.finetune.base_lr}"
train.train_micro_batch_size = 32
train.num_accumulation_steps = 4
train.train_epoch = "${vit.${vit.size}.finetune.epochs}"
train.warmup_epoch = 5
train.scheduler = LazyCall(warmup_cosine_lr)(min_lr=1e-6)
train.amp.enabled = True
train.checkpointer.save_model_after_n_epoch = 5
train.evaluation.eval_after_n_epoch = 1
