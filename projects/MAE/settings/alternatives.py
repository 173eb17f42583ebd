"""Settings that mean one thing: which of two counts, the one that the user has set.

A configuration is written in layers: a recipe, files that import it, the command line. What an outer
layer sets wins over what lies below, also where it is said with the other setting of a pair.
"""
import contextlib
import numbers
import os
import sys
import sysconfig

from libai.config import lazy
from omegaconf import DictConfig, OmegaConf
from omegaconf.errors import InterpolationResolutionError

from projects.MAE.errors import UserError
from projects.MAE.runtime import compat

COMMAND_LINE = "the command line"
# (setting, its value for "not set") of each pair that means one thing.
PAIRS = (
    (("train.train_iter", 0), ("train.train_epoch", 0)),
    (("train.warmup_ratio", None), ("train.warmup_epoch", 0)),
    (("optim.lr", None), ("train.base_lr", None)),
    (("train.checkpointer.period", 0), ("train.checkpointer.save_model_after_n_epoch", None)),
    (("train.evaluation.eval_period", 0), ("train.evaluation.eval_after_n_epoch", None)),
    (("train.visualize.period", 0), ("train.visualize.after_n_epoch", None)),
)
EVALUATIONS = ("train.evaluation.eval_period", "train.evaluation.eval_after_n_epoch")
RECIPES = os.path.join(os.path.dirname(os.path.dirname(os.path.abspath(__file__))), "configs", "")
ZERO_COUNTS = ("train.warmup_ratio", "optim.lr", "train.base_lr")  # of the others 0 is "not set"
_SETTINGS = {"data.exif", *(key for pair in PAIRS for key, _ in pair)}
# Where the code lies that writes for a configuration file: OmegaConf, LiBai's LazyCall, Python's own.
_LIBRARIES = (
    *map(sysconfig.get_path, ("stdlib", "purelib")),
    *(lazy.__file__, compat.__file__, __file__),
)


@contextlib.contextmanager
def watched_settings():
    """Notes which file writes a setting of `PAIRS`, or data.exif, while configuration files run.

    Yields:
        A list that grows: (file, dotted key) in the order of time.
    """
    written, original = [], DictConfig._set_item_impl

    def set_item(node, key, value):
        original(node, key, value)
        names = set(_names(node._get_full_key(key), value))
        found = [s for s in _SETTINGS if s in names or s.split(".", 1)[1] in names]
        if found:
            file = _writer(sys._getframe(1))
            written.extend((file, setting) for setting in found)

    DictConfig._set_item_impl = set_item
    try:
        yield written
    finally:
        DictConfig._set_item_impl = original


def plain_settings(names):
    """The watched settings among what a file defines as plain dictionaries, which nothing notices.

    Args:
        names: {name: value} of the file.
    """
    plain = ((name, value) for name, value in names.items() if isinstance(value, dict))
    return _SETTINGS & {key for name, value in plain for key in _names(name, value)}


def _names(key, value):
    """The dotted names that are written with a value, which may be a group of settings. The name of
    the variable that holds the outermost group is none of theirs."""
    yield key
    if isinstance(value, (dict, DictConfig)):
        for part in value:
            inner = value._get_node(part) if isinstance(value, DictConfig) else value[part]
            yield from _names(f"{key}.{part}", inner)


def _writer(frame):
    """The file of the code that has written, behind what libraries do for it."""
    while frame.f_back and frame.f_code.co_filename.startswith(_LIBRARIES):
        frame = frame.f_back
    return frame.f_code.co_filename


def settle(cfg, written):
    """Reset the setting of each pair that doesn't count; nothing is ignored in silence.

    null is as good as the value for "not set".

    Args:
        cfg: a configuration, which is written into.
        written: (layer, dotted key) of what was set, in the order of time.

    Returns:
        A line for each that was reset, and for one that has no effect.

    Raises:
        UserError: the user has set both.
    """
    lines = [line for pair in PAIRS for line in _settle(cfg, pair, written)]
    for key, off in (setting for pair in PAIRS for setting in pair):
        if off is not None and OmegaConf.select(cfg, key) is None:
            OmegaConf.update(cfg, key, off)
    return [*lines, *_without_effect(cfg, written)]


def is_recipe(layer):
    """Whether a layer is a file of this project's, not of the user's."""
    return os.path.abspath(layer).startswith(RECIPES)


def _is_set(key, value):
    """Whether a value says something; what is none for its key is told by `rules.py`."""
    is_number = isinstance(value, numbers.Real) and not isinstance(value, bool)
    return is_number and (value > 0 or value == 0 and key in ZERO_COUNTS)


def _value(cfg, key):
    try:
        return OmegaConf.select(cfg, key)
    except InterpolationResolutionError as error:
        raise UserError(f"{key}: {str(error).splitlines()[0]}") from None


def _settle(cfg, pair, written):
    found = {key: _value(cfg, key) for key, _ in pair}
    if _is_turned_off("train.warmup_epoch", found, written):
        OmegaConf.update(cfg, "train.warmup_ratio", None)
        given_up = f"train.warmup_ratio={found['train.warmup_ratio']}"
        yield f"{given_up} gives way to train.warmup_epoch=0, which was set over it"
        return
    if not all(_is_set(key, value) for key, value in found.items()):
        return
    written = [(layer, key) for layer, key in written if key in found]
    outer = [key for key in found if not written or (written[-1][0], key) in written]
    if not written and pair[0][0] in ZERO_COUNTS:
        outer = outer[:1]  # a config.yaml of an earlier version, where the first won
    if len(outer) == 2:
        both = " and ".join(f"{key}={value}" for key, value in found.items())
        off = " or ".join(f"{key}={'null' if off is None else off}" for key, off in pair)
        raise UserError(f"{both} mean one thing: leave one of them out, or set {off}")
    for key, off in pair:
        if key not in outer:
            OmegaConf.update(cfg, key, off)
            yield f"{key}={found[key]} gives way to {outer[0]}={found[outer[0]]}, which was set over it"


def _is_turned_off(key, found, written):
    """Whether the outermost layer that sets one of a pair sets this one alone, to 0."""
    written = [(layer, name) for layer, name in written if name in found]
    if found.get(key) != 0 or isinstance(found[key], bool) or not written:
        return False
    return {name for layer, name in written if layer == written[-1][0]} == {key} and any(
        _is_set(name, value) for name, value in found.items() if name != key
    )


def _without_effect(cfg, written):
    """A line for a time of evaluation that the user has set, where there is none."""
    written = [(layer, key) for layer, key in written if key in EVALUATIONS]
    if not written or OmegaConf.select(cfg, "train.evaluation.enabled") is not False:
        return
    layer, key = written[-1]
    value = OmegaConf.select(cfg, key)
    if _is_set(key, value) and not is_recipe(layer):
        yield f"{key}={value} has no effect: train.evaluation.enabled=False"
