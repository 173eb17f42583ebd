"""Pretrain a small masked autoencoder on handwritten digits: the first half of the quickstart.

    bash tools/train.sh projects/MAE/train_net.py projects/MAE/configs/quickstart_pretraining.py

It is mae_pretraining.py with a small model, small images and few epochs; what differs stands here.
The data is what `python -m projects.MAE.digits output/digits` writes.
"""
from libai.config import LazyCall

from projects.MAE.data.transforms import CenterCrop, Compose, RandomResizedCrop, Resize

from .common.to_array import to_array
from .mae_pretraining import data, dataloader, finetune, graph, model, optim, train, vit

data.exif = "apply"
model.img_size = 24
model.patch_size = 4  # 36 patches
model.embed_dim, model.depth, model.num_heads = 96, 3, 4
model.decoder_embed_dim, model.decoder_depth, model.decoder_num_heads = 64, 1, 4
# With pixels as targets the reconstructions are pictures; normalised patches are not.
model.norm_pix_loss = False

dataloader.train.dataset[0].root = "output/digits"
# A mirrored digit is another digit or none, so there is no flip.
dataloader.train.dataset[0].transform = LazyCall(Compose)(
    transforms=[
        LazyCall(RandomResizedCrop)(size="${model.img_size}", scale=[0.6, 1.0]),
        to_array(),
    ]
)
dataloader.test[0].dataset.transform = LazyCall(Compose)(
    transforms=[
        LazyCall(Resize)(size="${model.img_size}"),
        LazyCall(CenterCrop)(size="${model.img_size}"),
        to_array(),
    ]
)
dataloader.train.num_workers = dataloader.test[0].num_workers = 1

train.output_dir = "output/quickstart/pretraining"
# The batch of the run, however many ranks share it: the result is the same on any machine.
train.global_batch_size, train.train_micro_batch_size, train.num_accumulation_steps = 64, None, 1
train.base_lr = 8e-3  # a small model takes a higher rate
train.train_epoch = 40
train.warmup_epoch = 4
train.evaluation.enabled = True  # the reconstruction loss on val/
train.evaluation.eval_after_n_epoch = 20
train.checkpointer.save_model_after_n_epoch = 20
train.visualize.after_n_epoch = 10
train.test_micro_batch_size = 60
