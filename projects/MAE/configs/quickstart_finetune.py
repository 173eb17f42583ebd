"""Finetune the quickstart's encoder to classify digits: the second half of the quickstart.

    bash tools/train.sh projects/MAE/train_net.py projects/MAE/configs/quickstart_finetune.py

It is mae_finetune.py with a small model and little augmentation; what differs stands here.
From scratch, for comparison: finetune.enable=False.
"""
from libai.config import LazyCall

from projects.MAE.data.transforms import CenterCrop, Compose, RandomResizedCrop, Resize

from .common.to_array import to_array
from .mae_finetune import data, dataloader, finetune, graph, model, optim, train, vit

data.exif = "apply"
model.img_size = 24
model.patch_size = 4
model.embed_dim, model.depth, model.num_heads = 96, 3, 4
model.num_classes = 10
model.drop_path_rate = 0.0

finetune.path = "output/quickstart/pretraining"

dataloader.train.dataset[0].root = "output/digits"
dataloader.train.dataset[0].transform = LazyCall(Compose)(
    transforms=[
        LazyCall(RandomResizedCrop)(size="${model.img_size}", scale=[0.6, 1.0]),
        to_array(),
    ]
)
dataloader.train.mixup = None
dataloader.test[0].dataset.transform = LazyCall(Compose)(
    transforms=[
        LazyCall(Resize)(size="${model.img_size}"),
        LazyCall(CenterCrop)(size="${model.img_size}"),
        to_array(),
    ]
)
dataloader.train.num_workers = dataloader.test[0].num_workers = 1

optim.params.layer_decay = 0.8  # three blocks, not twelve

train.output_dir = "output/quickstart/finetune"
train.global_batch_size, train.train_micro_batch_size, train.num_accumulation_steps = 64, None, 1
train.base_lr = 4e-3
train.train_epoch = 14
train.warmup_epoch = 2
train.evaluation.eval_after_n_epoch = 7
train.checkpointer.save_model_after_n_epoch = 7
train.test_micro_batch_size = 60
