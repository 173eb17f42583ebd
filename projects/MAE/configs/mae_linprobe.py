"""Train a linear classifier on a frozen encoder on ImageNet-1k: the paper's linear probing.

    bash tools/train.sh projects/MAE/train_net.py projects/MAE/configs/mae_linprobe.py 8 \
        dataloader.train.dataset.0.root=/data/imagenet finetune.path=output/mae_pretraining

8 GPUs make the global batch 16384 (8 * 512 * 4 accumulation steps, which change nothing but the
memory). Another size: vit.size=large; the epochs follow it. Published results of the paper's
weights: 67.8 top-1 with Base, 76.0 with Large, 77.2 with Huge.

With --knn there is no training: every image of val/ is classified by its nearest images of train/.
"""
from libai.config import LazyCall

from projects.MAE.data.transforms import Compose, RandomHorizontalFlip, RandomResizedCrop
from projects.MAE.modeling.linear_probe import LinearProbe
from projects.MAE.optim.lars import LARS
from projects.MAE.optim.param_groups import param_groups_weight_decay
from projects.MAE.optim.schedule import warmup_cosine_lr

from .common.to_array import to_array
from .mae_finetune import data, dataloader, finetune, graph, train, vit

model = LazyCall(LinearProbe)(
    img_size="${oc.select:vit.${vit.size}.img_size,224}",
    patch_size="${vit.${vit.size}.patch_size}",
    in_chans=3,
    embed_dim="${vit.${vit.size}.embed_dim}",
    depth="${vit.${vit.size}.depth}",
    num_heads="${vit.${vit.size}.num_heads}",
    mlp_ratio=4.0,
    global_pool=False,  # the class token
    num_classes=1000,
)

dataloader.train.dataset[0].drop_path_rate = 0.0
dataloader.train.dataset[0].transform = LazyCall(Compose)(
    transforms=[
        LazyCall(RandomResizedCrop)(size="${model.img_size}", scale=[0.08, 1.0], clamp=True),
        LazyCall(RandomHorizontalFlip)(p=0.5),
        to_array(),
    ]
)
dataloader.train.mixup = None

optim = LazyCall(LARS)(
    params=LazyCall(param_groups_weight_decay)(weight_decay=0.0),
    lr=None,  # train.base_lr * global batch / 256
    momentum=0.9,
)

train.output_dir = "output/mae_linprobe"
train.base_lr = 0.1
train.train_micro_batch_size = 512
train.num_accumulation_steps = 4
train.train_epoch = "${vit.${vit.size}.linprobe.epochs}"
train.warmup_epoch = 10
train.scheduler = LazyCall(warmup_cosine_lr)(min_lr=0.0)
