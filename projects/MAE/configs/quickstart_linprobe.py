"""Probe the quickstart's encoder, which stays as it is: a linear classifier on its features.

    bash tools/train.sh projects/MAE/train_net.py projects/MAE/configs/quickstart_linprobe.py
    bash tools/train.sh projects/MAE/train_net.py projects/MAE/configs/quickstart_linprobe.py --knn

It is mae_linprobe.py with the quickstart's model and the images of quickstart_finetune.py; what
differs stands here. The probes of an encoder that was never trained, for comparison:
finetune.enable=False.
"""
from .mae_linprobe import graph, model, optim, train, vit
from .quickstart_finetune import data, dataloader, finetune

model.img_size = 24
model.patch_size = 4
model.embed_dim, model.depth, model.num_heads = 96, 3, 4
model.num_classes = 10
# The mean of the patch tokens. Nothing asks a class token for anything in pretraining, and in this
# short one it learns nothing: the probes of the class token are as good without it.
model.global_pool = True

dataloader.train.dataset[0].drop_path_rate = 0.0

train.output_dir = "output/quickstart/linprobe"
train.global_batch_size, train.train_micro_batch_size, train.num_accumulation_steps = 64, None, 1
train.base_lr = 80  # a batch of 64 makes that 20; LARS takes a thousandth of it
train.train_epoch = 20
train.warmup_epoch = 2
train.evaluation.eval_after_n_epoch = 10
train.checkpointer.save_model_after_n_epoch = 10
train.test_micro_batch_size = 60
