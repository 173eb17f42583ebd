"""Settings of a run that don't depend on the recipe. Each recipe sets what it changes."""
from .node import node

train = node(
    output_dir="output",
    device="auto",  # auto, cuda or cpu
    seed=0,
    load_weight="",  # a checkpoint to evaluate with --eval-only; to start from one: finetune
    # global batch = train_micro_batch_size * data-parallel ranks * num_accumulation_steps;
    # the one that is null follows from the others.
    train_micro_batch_size=64,
    num_accumulation_steps=1,
    global_batch_size=None,
    test_micro_batch_size=64,
    # Of two settings that mean one thing the one that is set last counts, over what a recipe says;
    # both in one file, or both on the command line, are an error.
    train_epoch=0,
    train_iter=0,
    warmup_epoch=0,
    warmup_ratio=None,  # warm-up as a share of all iterations
    base_lr=None,  # the rate is base_lr * global batch / 256, unless optim.lr is set
    log_period=20,  # iterations from line to line of the log and of metrics.json
    max_seconds=None,  # save and stop after so many, as on SIGTERM
    # A run ends with a line, and where each rank is, when none has made progress for so long; 0 for never.
    timeout_seconds=1800,
    max_bad_batches=0,  # updates to leave out where the loss is not finite, before giving up
    tensorboard=None,  # event files: True, False, or null for "where tensorboardX is installed"
    wandb=dict(enabled=False, project="mae-oneflow", name=None, mode="online"),  # or "offline"
    rdma_enabled=False,  # InfiniBand between machines instead of TCP
    amp=dict(enabled=False),
    activation_checkpoint=dict(enabled=False),
    zero_optimization=dict(enabled=False, stage=1),
    # period and eval_period are in iterations, *_after_n_epoch in epochs.
    checkpointer=dict(period=0, save_model_after_n_epoch=None, max_to_keep=None),
    evaluation=dict(
        enabled=True,
        eval_period=0,
        eval_after_n_epoch=None,
        eval_metric="Acc@1",
        eval_mode="max",
        topk=[1, 5],
        eval_iter=None,  # batches to evaluate; null for all
        # Of --eval-only: whether data of a part of the weights' classes will do ("subset"), and whose
        # preprocessing counts where the weights name one ("weights" or "recipe").
        classes="all",
        preprocessing="weights",
        exif=None,  # of weights that don't say: null for data.exif where you set it, else "ignore"
    ),
    # Pictures of what a masked autoencoder makes of a few images, in OUTPUT/reconstructions.
    visualize=dict(period=0, after_n_epoch=None, num_images=8),
    knn=dict(k=20, temperature=0.07),  # of --knn: neighbours, and how fast their weight falls
    dist=dict(
        data_parallel_size=None,  # all the ranks that the other two leave
        tensor_parallel_size=1,
        pipeline_parallel_size=1,
        # The stage of each block, encoder first, as [0, 0, 1, 1]; None balances by cost.
        custom_pipeline_stage_id=None,
    ),
)

data = node(
    on_error="raise",  # an image that can't be read ends the run; "skip": is left out and reported
    exif="apply",  # images are turned as people see them; "ignore": lie as they are stored
    bits=None,  # that are used of files with 16 bits a colour, as 12; null for all of them
    # Of pixels scaled to [0, 1], red, green, blue: ImageNet's. Training, evaluation, pictures and
    # model cards take them from here.
    mean=[0.485, 0.456, 0.406],
    std=[0.229, 0.224, 0.225],
)

graph = node(enabled=True)  # False for eager mode
