"""Checks of a configuration's values, before anything is built."""
import os

from omegaconf import OmegaConf

from projects.MAE.checkpoint.names import find_checkpoint, has_checkpoint
from projects.MAE.data.image_folder import find_split
from projects.MAE.data.transforms import IMAGENET_MEAN, IMAGENET_STD
from projects.MAE.errors import UserError, about
from projects.MAE.modeling.sizes import check_sizes, kept_patches
from projects.MAE.modeling.task import task_of
from projects.MAE.monitor.writers import check_writers
from projects.MAE.runtime.lazy_call import is_call, name_of_call
from projects.MAE.settings.check_each import check_each
from projects.MAE.weights.pretrained import check_channels, check_source, told_sizes, weight_style_of


def check_settings(cfg, eval_only, may_be_random=False, resumes=False):
    """Raise a UserError for the first setting that can be known to be wrong.

    What depends on the ranks (layout, batch sizes) is checked in parallel/layout.py.

    Args:
        eval_only: nothing is trained.
        may_be_random: nor need there be weights.
    """
    check_each(cfg)
    _check_model(cfg.model)
    _check_data(cfg)
    _check_preprocessing(cfg)
    _check_schedule(cfg.train, cfg.optim, eval_only)
    _check_modes(cfg)
    _check_metric(cfg)
    _check_pictures(cfg)
    check_writers(cfg.train)
    _check_weights(cfg, resumes, eval_only, may_be_random)


def take_from_weights(cfg, eval_only, resumes):
    """Fill in what the weights to begin with say and nobody has set: their style, and the model's
    image and patch size, which a recipe has by reference only.

    Returns:
        A line for each size that is not the recipe's, and for what of finetune is not used.

    Raises:
        UserError: the weights can't be read.
    """
    train, model = cfg.train, cfg.model
    starts = cfg.finetune.enable is True and cfg.finetune.path
    if starts and cfg.finetune.weight_style is None:
        cfg.finetune.weight_style = weight_style_of(cfg.finetune.path)
    key, path = "finetune.path", cfg.finetune.path if starts else None
    if eval_only and train.load_weight:
        key, path = "train.load_weight", train.load_weight
    if resumes and has_checkpoint(train.output_dir):
        key, path = "train.output_dir", train.output_dir
    lines = []
    if starts and key == "train.output_dir" and not eval_only and cfg.finetune.get("ema"):
        lines.append(f"finetune.ema=True is not used: --resume goes on from {key}={path}")
    if eval_only and starts and key != "finetune.path":
        lines.append(f"finetune.path={cfg.finetune.path} is not used: {key}={path} is evaluated")
    open_ = [k for k in ("img_size", "patch_size") if OmegaConf.is_interpolation(model, k)]
    if not path or not os.path.exists(path) or not open_:
        return lines
    with about(key, path):
        sizes, teller = told_sizes(path, key == "finetune.path" and cfg.finetune.get("ema", False))
        channels = model.get("in_chans", 3)
        check_channels(sizes.get("in_chans", channels), channels, path)
    for name in open_:
        if sizes.get(name, model[name]) != model[name]:
            model[name] = sizes[name]
            found = f"model.{name}={sizes[name]}, as {teller} says ({path})"
            lines.append(f"{found}: nobody has set another")
    return lines


def check_paths(cfg, train, test):
    """Raise a UserError where a folder of images that the run needs is not there.

    Those of training are needed with `train`, those of evaluation with `test` or its setting.
    """
    if test and not cfg.dataloader.get("test"):
        raise UserError(
            "--eval-only and --knn need dataloader.test, a list of one loader: see projects/MAE/configs"
        )
    test = test or cfg.train.evaluation.enabled
    for key, dataset in _datasets(cfg, train, test):
        name = name_of_call(dataset)
        if "root" in dataset and name in ("PretrainingDataset", "ClassificationDataset"):
            labelled = name == "ClassificationDataset"
            find_split(dataset.root, dataset.get("train", True), f"{key}.root", labelled)


def check_mixup(cfg, batch):
    """Raise a UserError for a `Batch` that mixup can't pair."""
    rows = batch.micro * batch.steps
    if rows % 2 and is_call(cfg.dataloader.train.get("mixup")):
        raise UserError(
            f"train.train_micro_batch_size={batch.micro}: mixup pairs images and "
            f"needs an even number of them on each rank, not {rows}: set an even "
            "train.train_micro_batch_size, or dataloader.train.mixup=null to train without mixup"
        )


def _check_model(model):
    size, patch = model.img_size, model.patch_size
    check_sizes(size, patch, model.embed_dim, model.num_heads)
    if "decoder_embed_dim" in model:
        check_sizes(size, patch, model.decoder_embed_dim, model.decoder_num_heads, "decoder_")
    for key in ("embed_dim", "decoder_embed_dim"):
        if key in model and "mlp_ratio" in model and int(model[key] * model.mlp_ratio) < 1:
            raise UserError(
                f"model.mlp_ratio={model.mlp_ratio} leaves no hidden unit for model.{key}="
                f"{model[key]}: choose a larger one (the paper's is 4)"
            )
    if "mask_ratio" in model:
        kept_patches((size // patch) ** 2, model.mask_ratio)


def _datasets(cfg, train=True, test=True):
    """Yield (key, node) of each data set of the training and the test loaders."""
    loaders = {"dataloader.train": cfg.dataloader.train} if train else {}
    if test:
        tests = enumerate(cfg.dataloader.get("test", []))
        loaders.update((f"dataloader.test.{i}", loader) for i, loader in tests)
    for key, loader in loaders.items():
        found = loader.get("dataset")
        if is_call(found):
            yield f"{key}.dataset", found
        else:
            nodes = enumerate(found or [])
            yield from ((f"{key}.dataset.{i}", node) for i, node in nodes if is_call(node))


def _check_data(cfg):
    """What data sets and augmentation say of the model has to be the model's."""
    model, mixup = cfg.model, cfg.dataloader.train.get("mixup")
    if is_call(mixup):
        _check_same(mixup, "dataloader.train.mixup", "num_classes", model)
    for key, dataset in _datasets(cfg):
        name = name_of_call(dataset)
        if name == "PretrainingDataset":
            _check_same(dataset, key, "img_size", model)
            _check_same(dataset, key, "patch_size", model)
        if name in ("PretrainingDataset", "ClassificationDataset") and model.get("in_chans", 3) != 3:
            raise UserError(
                f"{key} reads images as RGB, of 3 channels",
                key="model.in_chans",
                value=model.in_chans,
                way_out="set {key}3, or train on a data set of your own (docs/data.md)",
            )
        if name == "ClassificationDataset" and dataset.get("drop_path_rate"):
            _check_same(dataset, key, "depth", model)
        _check_image_size(dataset, key, model)


def _check_preprocessing(cfg):
    """How files become pixels, and pixels the model's input, is one for all data sets."""
    wanted = {key: (f"data.{key}", value) for key, value in cfg.get("data", {}).items()}
    for key, dataset in _datasets(cfg):
        if name_of_call(dataset) in ("PretrainingDataset", "ClassificationDataset"):
            _check_one(dataset, key, dict(exif="apply", bits=None), wanted)
        transform = dataset.get("transform")
        steps = transform.get("transforms", []) if is_call(transform) else []
        for i, step in enumerate(steps):
            if name_of_call(step) == "ToArray":
                place = f"{key}.transform.transforms.{i}"
                _check_one(step, place, dict(mean=IMAGENET_MEAN, std=IMAGENET_STD), wanted)


def _check_one(node, place, defaults, wanted):
    """wanted: {argument: (key of what a value must be equal to, that)}, filled from the first."""
    for argument, default in defaults.items():
        found = node.get(argument, default)
        found = list(found) if isinstance(default, tuple) else found
        key, value = wanted.setdefault(argument, (f"{place}.{argument}", found))
        if found != value:
            raise UserError(
                f"{place}.{argument}={found}, but {key}={value}: training and evaluation need the "
                f"same: set only data.{argument}, and leave the others at ${{data.{argument}}}"
            )


def _check_same(node, key, argument, model):
    if argument in node and argument in model and node[argument] != model[argument]:
        raise UserError(
            f"{key}.{argument}={node[argument]}, but model.{argument}={model[argument]}: set only "
            f"model.{argument}, and leave the other at ${{model.{argument}}}"
        )


def _check_image_size(dataset, key, model):
    """The last of the project's transforms that makes images of one size has to make the model's."""
    transforms = dataset.get("transform")
    if not is_call(transforms) or name_of_call(transforms) != "Compose":
        return
    steps = [(i, t, name_of_call(t)) for i, t in enumerate(transforms.transforms)]
    if not all(name for _, _, name in steps):
        return  # a class of the user's own may do anything to the size
    sized = [(i, t) for i, t, name in steps if "Crop" in name]
    if not sized:
        return
    place, last = sized[-1]
    if last.size != model.img_size:
        raise UserError(
            f"{key}.transform.transforms.{place}.size={last.size}, but model.img_size="
            f"{model.img_size}: set only model.img_size, and leave the other at ${{model.img_size}}"
        )


def _check_schedule(train, optim, eval_only):
    if eval_only:
        return
    if train.train_epoch == 0 and train.train_iter == 0:
        raise UserError("train.train_epoch and train.train_iter are both 0: set one of them")
    if train.train_iter == 0 and train.warmup_ratio is None and train.warmup_epoch > train.train_epoch:
        raise UserError(
            f"train.warmup_epoch={train.warmup_epoch} is longer than the training, "
            f"train.train_epoch={train.train_epoch}: choose at most that, or set "
            "train.warmup_ratio, a share of the training"
        )
    if train.base_lr is None and optim.get("lr") is None:
        raise UserError(
            "train.base_lr and optim.lr are both null: set train.base_lr, the rate at a global "
            "batch of 256, or optim.lr"
        )


def _check_modes(cfg):
    for key, what in (("activation_checkpoint", "recomputation"), ("zero_optimization", "ZeRO")):
        if cfg.train[key].enabled and not cfg.graph.enabled:
            raise UserError(
                f"train.{key}.enabled=True needs graph.enabled=True: eager mode has no {what}"
            )


def _check_metric(cfg):
    evaluation, task = cfg.train.evaluation, task_of(cfg.model)
    if not evaluation.enabled:
        return
    metrics = task.metrics(evaluation.topk, cfg.model.get("num_classes"))
    if evaluation.eval_metric not in metrics:
        raise UserError(
            f"train.evaluation.eval_metric={evaluation.eval_metric} is not measured: choose "
            + " or ".join(metrics)
        )
    if evaluation.eval_mode != task.best:
        raise UserError(
            f"train.evaluation.eval_mode={evaluation.eval_mode} would keep the model with the worst "
            f"{evaluation.eval_metric} as model_best: set train.evaluation.eval_mode={task.best}"
        )


def _check_pictures(cfg):
    pictures = cfg.train.visualize
    if not (pictures.period or pictures.after_n_epoch):
        return
    if not task_of(cfg.model).draws:
        raise UserError(
            "train.visualize.period and .after_n_epoch are for pretraining: a classifier reconstructs "
            "nothing"
        )
    if not cfg.dataloader.get("test"):
        raise UserError(
            "train.visualize needs an entry of dataloader.test, which says how an image is prepared: "
            "add one, or set train.visualize.period=0 train.visualize.after_n_epoch=null"
        )


def _check_weights(cfg, resumes, eval_only, may_be_random):
    train, pretrained = cfg.train, "finetune" in cfg and cfg.finetune.enable
    if train.load_weight and not eval_only:
        raise UserError(
            f"train.load_weight={train.load_weight} is for --eval-only: to start training from "
            "these weights, set finetune.enable=True and finetune.path"
        )
    named = resumes or train.load_weight or pretrained
    if eval_only and not (named or may_be_random):
        raise UserError(
            "--eval-only needs weights: --resume, train.load_weight=CHECKPOINT or finetune.path=..."
        )
    if eval_only and train.load_weight:
        with about("train.load_weight", train.load_weight):
            if os.path.exists(train.load_weight) and weight_style_of(train.load_weight) != "oneflow":
                way_out = "name weights of another kind as finetune.path"
                raise UserError("no LiBai checkpoint", path=train.load_weight, way_out=way_out)
            find_checkpoint(train.load_weight)
    elif pretrained and not resumes:
        check_source(cfg.finetune.path, cfg.finetune.weight_style)
    if os.path.isfile(train.output_dir):
        raise UserError(
            f"train.output_dir={train.output_dir} is a file: name a folder, new or of this run"
        )
