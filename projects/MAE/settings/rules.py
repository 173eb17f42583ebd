"""What each setting must be: a table, one line a key.

A key is a place in the configuration (`train.seed`) or, inside a LazyCall, the argument of what is
called (`Mixup.prob`), wherever that stands. A key that is not here, of a configuration's own nodes
or its own classes, may be anything. What several settings must be together: `check_together.py`.
"""
import collections
import math
import numbers
import os

from omegaconf import ListConfig

from projects.MAE.runtime.lazy_call import is_call

Rule = collections.namedtuple("Rule", "fits must_be")
Rule.__doc__ = """`fits(value)` tells whether a value is right; `must_be` says so in words."""


def whole(least):
    return Rule(lambda v: _is_whole(v) and v >= least, f"a whole number of at least {least}")


def number(least=None, most=None, above=None, below=None):
    """A finite number in a range; `least` and `most` are part of it, `above` and `below` not."""
    bounds = [
        (least, "at least", lambda v: v >= least),
        (above, "above", lambda v: v > above),
        (most, "at most", lambda v: v <= most),
        (below, "below", lambda v: v < below),
    ]
    bounds = [(f"{words} {bound}", fits) for bound, words, fits in bounds if bound is not None]
    words = " and ".join(text for text, _ in bounds)
    must_be = f"a number {words}".rstrip()
    return Rule(lambda v: _is_number(v) and all(fits(v) for _, fits in bounds), must_be)


def choice(*values):
    return Rule(lambda v: v in values, ", ".join(values[:-1]) + f" or {values[-1]}")


def null_or(rule, meaning):
    return Rule(lambda v: v is None or rule.fits(v), f"{rule.must_be}, or null {meaning}")


def listed(rule, count=None):
    """A list of values that each fit a rule; at least one, or exactly `count`."""
    return Rule(
        lambda v: _is_list(v) and len(v) and count in (None, len(v)) and all(map(rule.fits, v)),
        f"a list of {count or 'one or more values'}, each {rule.must_be}",
    )


def interval(above, most=None):
    """[smallest, largest] of what is drawn at random."""
    bound = number(above=above, most=most)
    return Rule(
        lambda v: listed(bound, 2).fits(v) and v[0] <= v[1],
        f"two numbers [smallest, largest], each {bound.must_be}",
    )


def _is_whole(value):
    return isinstance(value, numbers.Integral) and not isinstance(value, bool)


def _is_number(value):
    is_real = isinstance(value, numbers.Real) and not isinstance(value, bool)
    return is_real and math.isfinite(value)


def _is_list(value):
    return isinstance(value, (list, tuple, ListConfig))


ANYTHING = Rule(lambda v: True, "anything")  # filled in at start, or of a kind a user defines
FLAG = Rule(lambda v: isinstance(v, bool), "True or False")
TEXT = Rule(lambda v: isinstance(v, str) and v.strip() != "", "a text")
PATH = Rule(lambda v: isinstance(v, (str, os.PathLike)) and str(v).strip() != "", "a path")
PATH_OR_NONE = Rule(lambda v: v is None or isinstance(v, (str, os.PathLike)), "a path, or empty")
CALL = Rule(is_call, "a call: LazyCall(...)(...) in the configuration file")
CALLS = Rule(
    lambda v: _is_list(v) and len(v) and all(map(is_call, v)),
    "a list of one call or more: [LazyCall(...)(...)] in the configuration file",
)
CALLS_OR_NONE = Rule(
    lambda v: _is_list(v) and all(map(is_call, v)), "a list of calls, [] for no evaluation"
)
COUNT = whole(1)
NOT_NEGATIVE = number(least=0)
SIDES = listed(COUNT, 2)
SHARE = number(least=0, most=1)  # probabilities, too
BELOW_1 = number(least=0, below=1)
PERIOD = null_or(whole(0), "for never")
EPOCHS = null_or(NOT_NEGATIVE, "to count iterations")
BATCH = null_or(COUNT, "for what the other batch sizes leave")
SEED = Rule(
    lambda v: _is_whole(v) and 0 <= v < 2**63, "a whole number of at least 0 and below 2^63"
)
ON_ERROR = choice("raise", "skip")
EXIF = choice("apply", "ignore")
BITS = null_or(
    Rule(lambda v: _is_whole(v) and 8 <= v <= 16, "a whole number of bits from 8 to 16"), "for all"
)
_SCALED = ", of pixels scaled to [0, 1]"
MEAN, STD = listed(number(least=0, most=1), 3), listed(number(above=0, most=1), 3)
MEAN, STD = (rule._replace(must_be=rule.must_be + _SCALED) for rule in (MEAN, STD))
SECONDS = Rule(number(above=0).fits, "a positive number of seconds")

RULES = {
    "model": CALL,
    "optim": CALL,
    "dataloader.train": CALL,
    "dataloader.test": CALLS_OR_NONE,
    "data.on_error": ON_ERROR,
    "data.exif": EXIF,
    "data.bits": BITS,
    "data.mean": MEAN,
    "data.std": STD,
    "graph.enabled": FLAG,
    "finetune.enable": FLAG,
    "finetune.weight_style": null_or(choice("oneflow", "pytorch"), "for what finetune.path is"),
    "finetune.path": PATH_OR_NONE,
    "finetune.ema": FLAG,
    "train.output_dir": PATH,
    "train.device": choice("auto", "cuda", "cpu"),
    "train.seed": SEED,
    "train.load_weight": PATH_OR_NONE,
    "train.train_micro_batch_size": BATCH,
    "train.num_accumulation_steps": BATCH,
    "train.global_batch_size": BATCH,
    "train.test_micro_batch_size": COUNT,
    "train.train_epoch": NOT_NEGATIVE,
    "train.train_iter": whole(0),
    "train.warmup_epoch": NOT_NEGATIVE,
    "train.warmup_ratio": null_or(SHARE, "for train.warmup_epoch"),
    "train.base_lr": null_or(NOT_NEGATIVE, "where optim.lr is set"),
    "train.log_period": COUNT,
    "train.max_seconds": null_or(SECONDS, "for no limit"),
    "train.timeout_seconds": whole(0),
    "train.max_bad_batches": whole(0),
    "train.tensorboard": null_or(FLAG, "for 'where tensorboardX is installed'"),
    "train.wandb.enabled": FLAG,
    "train.wandb.project": TEXT,
    "train.wandb.name": null_or(TEXT, "to let wandb choose"),
    "train.wandb.mode": choice("online", "offline"),
    "train.rdma_enabled": FLAG,
    "train.amp.enabled": FLAG,
    "train.activation_checkpoint.enabled": FLAG,
    "train.zero_optimization.enabled": FLAG,
    "train.zero_optimization.stage": Rule(lambda v: v in (1, 2), "1 or 2"),
    "train.checkpointer.period": PERIOD,
    "train.checkpointer.save_model_after_n_epoch": EPOCHS,
    "train.checkpointer.max_to_keep": null_or(COUNT, "for all"),
    "train.evaluation.enabled": FLAG,
    "train.evaluation.eval_period": PERIOD,
    "train.evaluation.eval_after_n_epoch": EPOCHS,
    "train.evaluation.eval_metric": ANYTHING,  # what the model has, see check_together.py
    "train.evaluation.eval_mode": choice("max", "min"),
    "train.evaluation.topk": listed(COUNT),
    "train.evaluation.eval_iter": null_or(COUNT, "for all batches"),
    "train.evaluation.classes": choice("all", "subset"),
    "train.evaluation.preprocessing": choice("weights", "recipe"),
    "train.evaluation.exif": null_or(EXIF, "for data.exif where you have set that, else ignore"),
    "train.visualize.period": PERIOD,
    "train.visualize.after_n_epoch": EPOCHS,
    "train.visualize.num_images": COUNT,
    "train.knn.k": COUNT,
    "train.knn.temperature": number(above=0),
    "train.dist.data_parallel_size": null_or(COUNT, "for all ranks that are left"),
    "train.dist.tensor_parallel_size": COUNT,
    "train.dist.pipeline_parallel_size": COUNT,
    "train.dist.custom_pipeline_stage_id": null_or(listed(whole(0)), "to balance by cost"),
    "train.scheduler": CALL,
    "vit.size": ANYTHING,  # one of the sizes in vit, see check_together.py
    "vit.*.img_size": COUNT,
    "vit.*.patch_size": COUNT,
    "vit.*.embed_dim": COUNT,
    "vit.*.depth": COUNT,
    "vit.*.num_heads": COUNT,
    "vit.*.finetune.base_lr": NOT_NEGATIVE,
    "vit.*.finetune.epochs": NOT_NEGATIVE,
    "vit.*.finetune.layer_decay": number(above=0, most=1),
    "vit.*.finetune.drop_path": BELOW_1,
    "vit.*.linprobe.epochs": NOT_NEGATIVE,
}
# Not in the config.yaml of earlier versions.
NEWER = tuple(f"train.evaluation.{key}" for key in ("classes", "preprocessing", "exif"))
NEWER += ("train.timeout_seconds",)
# A configuration may leave these out where it has the node above them.
OPTIONAL = ("data.", "finetune.", "vit.", "dataloader.test", *NEWER)

_COUNTS = ("img_size", "patch_size", "in_chans", "embed_dim", "depth", "num_heads")
_SIZES = {**dict.fromkeys(_COUNTS, COUNT), "mlp_ratio": number(above=0)}
_DATASET = {
    "root": PATH_OR_NONE,
    "train": FLAG,
    "seed": SEED,
    "on_error": ON_ERROR,
    "exif": EXIF,
    "bits": BITS,
    "transform": CALL,
}
_OPTIMIZER = {
    "params": CALL,
    "lr": null_or(NOT_NEGATIVE, "for train.base_lr * global batch / 256"),
    "weight_decay": NOT_NEGATIVE,
}
_GROUPS = {
    "weight_decay": NOT_NEGATIVE,
    "clip_grad_max_norm": null_or(number(above=0), "for none"),
    "clip_grad_norm_type": number(above=0),
}
_CLASSIFIER = {**_SIZES, "global_pool": FLAG, "num_classes": COUNT}
# Arguments of what the project's configurations call, by its name.
ARGUMENTS = {
    "MaskedAutoencoderViT": {
        **_SIZES,
        "decoder_embed_dim": COUNT,
        "decoder_depth": COUNT,
        "decoder_num_heads": COUNT,
        "norm_pix_loss": FLAG,
        "mask_ratio": number(),
    },
    "VisionTransformer": {**_CLASSIFIER, "drop_path_rate": BELOW_1},
    "LinearProbe": _CLASSIFIER,
    "AdamW": {
        **_OPTIMIZER,
        "betas": listed(BELOW_1, 2),
        "eps": NOT_NEGATIVE,
        "amsgrad": FLAG,
        "do_bias_correction": FLAG,
        "fused": FLAG,
    },
    "LARS": {**_OPTIMIZER, "momentum": BELOW_1, "trust_coefficient": number(above=0)},
    "param_groups_weight_decay": _GROUPS,
    "param_groups_lrd": {**_GROUPS, "layer_decay": number(above=0, most=1)},
    "warmup_cosine_lr": {"min_lr": NOT_NEGATIVE},
    "build_image_train_loader": {
        "dataset": CALLS,
        "num_workers": whole(0),
        "mixup": null_or(CALL, "for none"),
        "seed": SEED,
    },
    "build_image_test_loader": {"dataset": CALL, "num_workers": whole(0)},
    "PretrainingDataset": {**_DATASET, "img_size": COUNT, "patch_size": COUNT},
    "ClassificationDataset": {**_DATASET, "depth": whole(0), "drop_path_rate": BELOW_1},
    "Compose": {"transforms": CALLS},
    "RandomResizedCrop": {
        "size": COUNT,
        "scale": interval(above=0, most=1),
        "ratio": interval(above=0),
        "clamp": FLAG,
    },
    "RandomHorizontalFlip": {"p": SHARE},
    "ColorJitter": dict.fromkeys(("brightness", "contrast", "saturation"), NOT_NEGATIVE),
    "Resize": {
        "size": Rule(lambda v: COUNT.fits(v) or SIDES.fits(v), f"{COUNT.must_be}, or [height, width]"),
        "crop_ratio": null_or(number(above=0, most=1), "for 0.875 up to 224 pixels, 1 above"),
        "resample": choice("nearest", "lanczos", "bilinear", "bicubic", "box", "hamming"),
    },
    "CenterCrop": {"size": COUNT},
    "ToArray": {"mean": MEAN, "std": STD},
    "RandAugment": {
        "num_layers": whole(0),
        "magnitude": number(least=0, most=10),
        "magnitude_std": NOT_NEGATIVE,
        "probability": SHARE,
        "fill": null_or(listed(number(least=0, most=255), 3), "for the mean"),
        "mean": MEAN,
    },
    "RandomErasing": {
        "probability": SHARE,
        "area": interval(above=0, most=1),
        "aspect": interval(above=0),
    },
    "Mixup": {
        "mixup_alpha": NOT_NEGATIVE,
        "cutmix_alpha": NOT_NEGATIVE,
        "cutmix_minmax": null_or(interval(above=0, most=1), "for boxes that follow lambda"),
        "prob": SHARE,
        "switch_prob": SHARE,
        "label_smoothing": BELOW_1,
        "num_classes": COUNT,
    },
}
RULES.update({f"{name}.{a}": rule for name, found in ARGUMENTS.items() for a, rule in found.items()})
