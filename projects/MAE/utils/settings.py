"""Checks of a configuration's values, before anything is built."""
import math

from projects.MAE.errors import UserError
from projects.MAE.modeling.mae import check_sizes, kept_patches
from projects.MAE.utils.libai_folder import find_checkpoint
from projects.MAE.utils.pretrained import check_source
from projects.MAE.utils.writers import check_writers


def check_settings(cfg, eval_only):
    """Raise a UserError for the first setting that can be known to be wrong."""
    model = cfg.model
    check_sizes(model.img_size, model.patch_size, model.embed_dim, model.num_heads)
    if "mask_ratio" in model:
        kept_patches((model.img_size // model.patch_size) ** 2, model.mask_ratio)
    _check_training(cfg)
    _check_pictures(cfg)
    check_writers(cfg.train)
    if cfg.train.load_weight and not eval_only:
        raise UserError(
            f"train.load_weight={cfg.train.load_weight} is for --eval-only: to start training from "
            "these weights, set finetune.enable=True and finetune.path"
        )
    if eval_only and cfg.train.load_weight:
        try:
            find_checkpoint(cfg.train.load_weight)
        except UserError as error:
            raise UserError(f"train.load_weight={error}") from None
    elif "finetune" in cfg and cfg.finetune.enable and not cfg.train.resume:
        check_source(cfg.finetune.path, cfg.finetune.weight_style)


def _check_training(cfg):
    train = cfg.train
    if train.device not in ("auto", "cuda", "cpu"):
        raise UserError(f"train.device={train.device} must be auto, cuda or cpu")
    if not isinstance(train.log_period, int) or train.log_period < 1:
        raise UserError(f"train.log_period={train.log_period} must be a whole number of at least 1")
    seconds = train.max_seconds
    if seconds is not None and (not _is_number(seconds) or seconds <= 0):
        raise UserError(
            f"train.max_seconds={seconds} must be a positive number of seconds, or null for no limit"
        )
    bad = train.max_bad_batches
    if not isinstance(bad, int) or isinstance(bad, bool) or bad < 0:
        raise UserError(f"train.max_bad_batches={bad} must be a whole number of at least 0")
    keep = train.checkpointer.max_to_keep
    if keep is not None and (not isinstance(keep, int) or keep < 1):
        raise UserError(
            f"train.checkpointer.max_to_keep={keep} must be a whole number of at least 1, or null "
            "for all"
        )
    lr = cfg.optim.lr
    if lr is not None and (not isinstance(lr, (int, float)) or lr < 0):
        raise UserError(f"optim.lr={lr} must be a number, or null for train.base_lr * batch / 256")
    if not cfg.graph.enabled and train.activation_checkpoint.enabled:
        raise UserError(
            "train.activation_checkpoint.enabled=True needs graph.enabled=True: eager mode has no "
            "recomputation"
        )
    if "num_classes" in cfg.model:
        metrics = [f"Acc@{k}" for k in train.evaluation.topk]
    else:
        metrics = ["reconstruction_loss"]
    if train.evaluation.enabled and train.evaluation.eval_metric not in metrics:
        raise UserError(
            f"train.evaluation.eval_metric={train.evaluation.eval_metric} is not measured: choose "
            + " or ".join(metrics)
        )


def _check_pictures(cfg):
    pictures = cfg.train.visualize
    if not (pictures.period or pictures.after_n_epoch):
        return
    if "mask_ratio" not in cfg.model:
        raise UserError(
            "train.visualize.period and .after_n_epoch are for pretraining: a classifier reconstructs "
            "nothing"
        )
    if not cfg.dataloader.get("test"):
        raise UserError(
            "train.visualize needs an entry of dataloader.test, which says how an image is prepared: "
            "add one, or set train.visualize.period=0 train.visualize.after_n_epoch=null"
        )
    count = pictures.num_images
    if not isinstance(count, int) or count < 1:
        raise UserError(
            f"train.visualize.num_images={count} must be a whole number of at least 1; no pictures: "
            "train.visualize.period=0 train.visualize.after_n_epoch=null"
        )


def _is_number(value):
    return isinstance(value, (int, float)) and not isinstance(value, bool) and math.isfinite(value)
