"""Wrong settings, and the message each must end with; `tests/unit/settings/test_bad_settings.py` tries them."""
ROOT_KEY = "dataloader.train.dataset.0.root"
CROP = "dataloader.train.dataset.0.transform.transforms.0"
BATCH = "train.train_micro_batch_size=null"
MEAN = "must be a list of 3, each a number at least 0 and at most 1, of pixels scaled to [0, 1]"
STD = "must be a list of 3, each a number above 0 and at most 1, of pixels scaled to [0, 1]"

# What `mae_pretraining.py` makes of one wrong setting, on a tiny model: the setting (or several),
# and the whole message.
PRETRAINING = [
    # Keys
    ("model.depht=3", "unknown key model.depht: model has no 'depht'; did you mean model.depth?"),
    ("trian.seed=3", "unknown key trian.seed: the configuration has no 'trian'; did you mean train?"),
    (
        "train.dist.tensor_paralel_size=2",
        "unknown key train.dist.tensor_paralel_size: train.dist has no 'tensor_paralel_size'; did "
        "you mean train.dist.tensor_parallel_size?",
    ),
    ("optim.beta=1", "unknown key optim.beta: optim has no 'beta'; did you mean optim.betas?"),
    (
        "dataloader.train.dataset.1.root=/x",
        "unknown key dataloader.train.dataset.1.root: dataloader.train.dataset has no '1'; there "
        "are: 0",
    ),
    # Types
    ("data.exif=no", "data.exif=no must be apply or ignore"),
    ("data.bits=20", "data.bits=20 must be a whole number of bits from 8 to 16, or null for all"),
    ("data.mean=0.5", f"data.mean=0.5 {MEAN}"),
    ("data.mean=[127,127,127]", f"data.mean=[127, 127, 127] {MEAN}"),
    ("data.std=[58,57,57]", f"data.std=[58, 57, 57] {STD}"),
    ("data.std=[0,1,1]", f"data.std=[0, 1, 1] {STD}"),
    ("train.seed=abc", "train.seed=abc must be a whole number of at least 0 and below 2^63"),
    ("train.seed=-1", "train.seed=-1 must be a whole number of at least 0 and below 2^63"),
    (
        f"train.seed={2**70}",
        f"train.seed={2**70} must be a whole number of at least 0 and below 2^63",
    ),
    ("model.depth=2.5", "model.depth=2.5 must be a whole number of at least 1"),
    ("model.depth=0", "model.depth=0 must be a whole number of at least 1"),
    ("model.num_heads=-4", "model.num_heads=-4 must be a whole number of at least 1"),
    ("model.patch_size=null", "model.patch_size=null must be a whole number of at least 1"),
    ("model.embed_dim=True", "model.embed_dim=True must be a whole number of at least 1"),
    ("model.img_size=[24,24]", "model.img_size=[24, 24] must be a whole number of at least 1"),
    ("model.norm_pix_loss=maybe", "model.norm_pix_loss=maybe must be True or False"),
    ("train.amp.enabled=1", "train.amp.enabled=1 must be True or False"),
    ("train.amp=True", "train.amp=True must be a group of settings: set train.amp.enabled and the like"),
    ("graph.enabled=null", "graph.enabled=null must be True or False"),
    ("train.log_period=0", "train.log_period=0 must be a whole number of at least 1"),
    ("model=3", "model=3 must be a call: LazyCall(...)(...) in the configuration file"),
    ("train.output_dir=''", "train.output_dir= must be a path"),
    ("model.depth=???", "model.depth has no value, only ???: set it"),
    ("model.depth=${model.dpeth}", "model.depth: Interpolation key 'model.dpeth' not found"),
    # The model
    ("model.img_size=30", "model.img_size=30 is not divisible by model.patch_size=4: choose 28 or 32"),
    ("model.num_heads=5", "model.embed_dim=32 must be divisible by 4 and by model.num_heads=5"),
    (
        "model.decoder_embed_dim=30",
        "model.decoder_embed_dim=30 must be divisible by 4 and by model.decoder_num_heads=4",
    ),
    (
        "model.mask_ratio=1.0",
        "model.mask_ratio=1.0: it leaves 0 of 36 patches visible: choose a ratio between 0 and 1 (the "
        "paper's is 0.75)",
    ),
    (
        "model.mask_ratio=0.98",
        "model.mask_ratio=0.98: it leaves 0 of 36 patches visible: choose a ratio between 0 and 1 (the "
        "paper's is 0.75)",
    ),
    ("model.mask_ratio=high", "model.mask_ratio=high must be a number"),
    ("model.mlp_ratio=-4", "model.mlp_ratio=-4 must be a number above 0"),
    (
        "model.mlp_ratio=0.001",
        "model.mlp_ratio=0.001 leaves no hidden unit for model.embed_dim=32: choose a larger one "
        "(the paper's is 4)",
    ),
    (
        "model.in_chans=4",
        "model.in_chans=4: dataloader.train.dataset.0 reads images as RGB, of 3 channels: set "
        "model.in_chans=3, or train on a data set of your own (docs/data.md)",
    ),
    ("vit.size=giant", "vit.size=giant must be base or large or huge"),
    # Schedule, batch and periods
    ("train.train_iter=0", "train.train_epoch and train.train_iter are both 0: set one of them"),
    (
        "train.train_iter=0 train.train_epoch=3 train.warmup_epoch=4",
        "train.warmup_epoch=4 is longer than the training, train.train_epoch=3: choose at most "
        "that, or set train.warmup_ratio, a share of the training",
    ),
    (
        "train.warmup_ratio=1.5",
        "train.warmup_ratio=1.5 must be a number at least 0 and at most 1, or null for "
        "train.warmup_epoch",
    ),
    ("train.train_epoch=-1", "train.train_epoch=-1 must be a number at least 0"),
    ("train.train_iter=1e3", "train.train_iter=1000.0 must be a whole number of at least 0"),
    (
        "train.base_lr=null",
        "train.base_lr and optim.lr are both null: set train.base_lr, the rate at a global batch "
        "of 256, or optim.lr",
    ),
    ("train.scheduler.min_lr=-1", "train.scheduler.min_lr=-1 must be a number at least 0"),
    (
        "train.scheduler=cosine",
        "train.scheduler=cosine must be a call: LazyCall(...)(...) in the configuration file",
    ),
    (
        "train.checkpointer.period=-1",
        "train.checkpointer.period=-1 must be a whole number of at least 0, or null for never",
    ),
    (
        "train.checkpointer.max_to_keep=0",
        "train.checkpointer.max_to_keep=0 must be a whole number of at least 1, or null for all",
    ),
    (
        "train.global_batch_size=0",
        "train.global_batch_size=0 must be a whole number of at least 1, or null for what the "
        "other batch sizes leave",
    ),
    (
        "train.train_micro_batch_size=3",
        "train.global_batch_size=8 is not train.train_micro_batch_size=3 times 1 data-parallel "
        "ranks times train.num_accumulation_steps=1: change one or set it to null",
    ),
    (
        "train.num_accumulation_steps=3",
        "train.global_batch_size=8 cannot be shared by 1 data-parallel ranks times "
        "train.num_accumulation_steps=3: choose 6 or 9",
    ),
    (
        "train.global_batch_size=null",
        "train.train_micro_batch_size or train.global_batch_size must be set",
    ),
    ("train.test_micro_batch_size=0", "train.test_micro_batch_size=0 must be a whole number of at least 1"),
    # Evaluation
    (
        "train.evaluation.eval_metric=Acc@1",
        "train.evaluation.eval_metric=Acc@1 is not measured: choose reconstruction_loss",
    ),
    (
        "train.evaluation.eval_mode=max",
        "train.evaluation.eval_mode=max would keep the model with the worst reconstruction_loss as "
        "model_best: set train.evaluation.eval_mode=min",
    ),
    ("train.evaluation.eval_mode=best", "train.evaluation.eval_mode=best must be max or min"),
    (
        "train.evaluation.eval_iter=0",
        "train.evaluation.eval_iter=0 must be a whole number of at least 1, or null for all batches",
    ),
    # Devices and modes
    ("train.device=tpu", "train.device=tpu must be auto, cuda or cpu"),
    (
        "train.zero_optimization.enabled=True",
        "train.zero_optimization.enabled=True needs GPUs, OneFlow has no ZeRO on a CPU: leave it "
        "out, or share the weights with train.dist.tensor_parallel_size",
    ),
    (
        "graph.enabled=False train.zero_optimization.enabled=True",
        "train.zero_optimization.enabled=True needs graph.enabled=True: eager mode has no ZeRO",
    ),
    (
        "graph.enabled=False train.activation_checkpoint.enabled=True",
        "train.activation_checkpoint.enabled=True needs graph.enabled=True: eager mode has no "
        "recomputation",
    ),
    ("train.zero_optimization.stage=3", "train.zero_optimization.stage=3 must be 1 or 2"),
    # Layouts, on one rank
    (
        "train.dist.tensor_parallel_size=2",
        "train.dist.tensor_parallel_size=2 times pipeline_parallel_size=1 does not divide the 1 "
        "ranks; nearest that fit 1 ranks: tensor 1 x pipeline 1",
    ),
    (
        "train.dist.data_parallel_size=2",
        "train.dist.data_parallel_size=2 times tensor 1 times pipeline 1 is not the 1 ranks: leave "
        "it out for 1",
    ),
    (
        "train.dist.custom_pipeline_stage_id=[0,0,1]",
        "train.dist.custom_pipeline_stage_id=[0, 0, 1] needs several stages: set "
        "train.dist.pipeline_parallel_size, or leave it out",
    ),
    *(
        (
            f"train.dist.custom_pipeline_stage_id={stages.replace(' ', '')}",
            f"train.dist.custom_pipeline_stage_id={stages} must be a list of one or more values, "
            "each a whole number of at least 0, or null to balance by cost",
        )
        for stages in ("1", "auto", "['0', 0]")
    ),
    # The optimizer
    (
        "optim.lr=abc",
        "optim.lr=abc must be a number at least 0, or null for train.base_lr * global batch / 256",
    ),
    (
        "optim.lr=nan",
        "optim.lr=nan must be a number at least 0, or null for train.base_lr * global batch / 256",
    ),
    (
        "optim.betas=[0.9,1.0]",
        "optim.betas=[0.9, 1.0] must be a list of 2, each a number at least 0 and below 1",
    ),
    (
        "optim.betas=[0.9,0.95",
        "optim.betas=[0.9,0.95 must be a list of 2, each a number at least 0 and below 1",
    ),
    ("optim.eps=-1e-8", "optim.eps=-1e-08 must be a number at least 0"),
    (
        "optim.params.clip_grad_max_norm=0",
        "optim.params.clip_grad_max_norm=0 must be a number above 0, or null for none",
    ),
    (
        "train.checkpointer.period=2 train.checkpointer.save_model_after_n_epoch=3",
        "train.checkpointer.period=2 and train.checkpointer.save_model_after_n_epoch=3 mean one "
        "thing: leave one of them out, or set train.checkpointer.period=0 or "
        "train.checkpointer.save_model_after_n_epoch=null",
    ),
    ("optim.params.weight_decay=-0.05", "optim.params.weight_decay=-0.05 must be a number at least 0"),
    # Data and augmentation
    (
        f"{ROOT_KEY}=/no/such/folder",
        f"{ROOT_KEY}=/no/such/folder: this path does not exist: give the folder that holds train/ "
        "and val/",
    ),
    (f"{ROOT_KEY}=''", f"{ROOT_KEY} is not set: give the folder that holds train/ and val/"),
    (
        f"{CROP}.scale=[0.5,0.2]",
        f"{CROP}.scale=[0.5, 0.2] must be two numbers [smallest, largest], each a number above 0 "
        "and at most 1",
    ),
    (
        f"{CROP}.size=32",
        f"{CROP}.size=32, but model.img_size=24: set only model.img_size, and leave the other at "
        "${model.img_size}",
    ),
    (
        "dataloader.train.dataset.0.patch_size=8",
        "dataloader.train.dataset.0.patch_size=8, but model.patch_size=4: set only "
        "model.patch_size, and leave the other at ${model.patch_size}",
    ),
    (
        "dataloader.train.num_workers=-1",
        "dataloader.train.num_workers=-1 must be a whole number of at least 0",
    ),
    (
        "dataloader.train.dataset=[]",
        "dataloader.train.dataset=[] must be a list of one call or more: [LazyCall(...)(...)] in "
        "the configuration file",
    ),
    ("data.on_error=ignore", "data.on_error=ignore must be raise or skip"),
    (
        "train.tensorboard=yes",
        "train.tensorboard=yes must be True or False, or null for 'where tensorboardX is installed'",
    ),
    ("train.wandb.mode=sometimes", "train.wandb.mode=sometimes must be online or offline"),
    (
        "model.mask_ratio=0.0",
        "model.mask_ratio=0.0: it leaves 36 of 36 patches visible: choose a ratio between 0 and 1 (the "
        "paper's is 0.75)",
    ),
    (
        "train.checkpointer.max_to_keep=-1",
        "train.checkpointer.max_to_keep=-1 must be a whole number of at least 1, or null for all",
    ),
    (
        "train.evaluation.eval_metric=foo",
        "train.evaluation.eval_metric=foo is not measured: choose reconstruction_loss",
    ),
    (
        "train.max_seconds=0",
        "train.max_seconds=0 must be a positive number of seconds, or null for no limit",
    ),
    ("train.timeout_seconds=-1", "train.timeout_seconds=-1 must be a whole number of at least 0"),
    ("train.max_bad_batches=-1", "train.max_bad_batches=-1 must be a whole number of at least 0"),
    # Weights
    (
        "train.load_weight=/x",
        "train.load_weight=/x is for --eval-only: to start training from these weights, set "
        "finetune.enable=True and finetune.path",
    ),
    (
        "finetune.enable=True finetune.path=/no/such/run",
        "finetune.path=/no/such/run: no such file or folder",
    ),
    (
        "--eval-only",
        "--eval-only needs weights: --resume, train.load_weight=CHECKPOINT or finetune.path=...",
    ),
    (
        "--eval-only train.load_weight=/no/such/run",
        "train.load_weight=/no/such/run: no such file or folder",
    ),
    # The command line
    ("model.depth", "argument 'model.depth' is neither an option nor key=value; see --help"),
    ("--evalonly", "unrecognized arguments: --evalonly: see bash tools/train.sh --help"),
    (
        "=3",
        "unknown key : the configuration has no ''; there are: data, dataloader, finetune, graph, "
        "model, optim, train, vit",
    ),
]
# The same of `mae_finetune.py`.
FINETUNING = [
    ("model.drop_path_rate=1.0", "model.drop_path_rate=1.0 must be a number at least 0 and below 1"),
    ("model.num_classes=0", "model.num_classes=0 must be a whole number of at least 1"),
    ("model.global_pool=avg", "model.global_pool=avg must be True or False"),
    ("optim.params.layer_decay=0", "optim.params.layer_decay=0 must be a number above 0 and at most 1"),
    ("optim.params.layer_decay=1.2", "optim.params.layer_decay=1.2 must be a number above 0 and at most 1"),
    (
        "finetune.weight_style=torch",
        "finetune.weight_style=torch must be oneflow or pytorch, or null for what finetune.path is",
    ),
    (
        "finetune.enable=True finetune.path=''",
        "finetune.path is not set: name a checkpoint of mae_pretraining.py, or set "
        "finetune.enable=False to start from scratch",
    ),
    ("finetune=True", "finetune=True must be a group of settings: set finetune.enable and the like"),
    (
        "train.evaluation.eval_metric=Acc@2",
        "train.evaluation.eval_metric=Acc@2 is not measured: choose Acc@1",
    ),
    (
        "train.evaluation.topk=5",
        "train.evaluation.topk=5 must be a list of one or more values, each a whole number of at "
        "least 1",
    ),
    (
        "dataloader.train.mixup.prob=2",
        "dataloader.train.mixup.prob=2 must be a number at least 0 and at most 1",
    ),
    (
        "dataloader.train.mixup.mixup_alpha=-1",
        "dataloader.train.mixup.mixup_alpha=-1 must be a number at least 0",
    ),
    (
        "dataloader.train.mixup.num_classes=7",
        "dataloader.train.mixup.num_classes=7, but model.num_classes=3: set only "
        "model.num_classes, and leave the other at ${model.num_classes}",
    ),
    (
        "train.global_batch_size=9",
        "train.train_micro_batch_size=9: mixup pairs images and needs an even number of them on "
        "each rank, not 9: set an even train.train_micro_batch_size, or "
        "dataloader.train.mixup=null to train without mixup",
    ),
    (
        f"{CROP[:-1]}2.magnitude=11",
        "dataloader.train.dataset.0.transform.transforms.2.magnitude=11 must be a number at least "
        "0 and at most 10",
    ),
    (
        f"{CROP[:-1]}2.num_layers=two",
        "dataloader.train.dataset.0.transform.transforms.2.num_layers=two must be a whole number "
        "of at least 0",
    ),
    (
        f"{CROP[:-1]}4.probability=-0.1",
        "dataloader.train.dataset.0.transform.transforms.4.probability=-0.1 must be a number at "
        "least 0 and at most 1",
    ),
]
