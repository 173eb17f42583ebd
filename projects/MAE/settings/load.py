"""From a LazyConfig file and the command line to a checked configuration."""
import copy
import difflib
import inspect
import os
import sys
import traceback

from hydra.core.override_parser.overrides_parser import OverridesParser
from hydra.errors import HydraException
from libai.config import LazyConfig
from libai.config.lazy import _CFG_PACKAGE_NAME
from omegaconf import DictConfig, ListConfig, OmegaConf
from omegaconf.errors import OmegaConfBaseException

from projects.MAE.errors import UserError
from projects.MAE.runtime.compat import keeps_import, kept_names
from projects.MAE.runtime.lazy_call import is_call, target_of
from projects.MAE.settings.alternatives import (
    COMMAND_LINE,
    is_recipe,
    plain_settings,
    settle,
    watched_settings,
)
from projects.MAE.settings.check_each import NODES, check_groups, check_kinds
from projects.MAE.utils.disk import rename, sync

# Modules whose functions a config.yaml of before a move still calls, and where they are now.
FORMER_MODULES = {
    "projects.MAE.utils.lars": "projects.MAE.optim.lars",
    "projects.MAE.utils.lr_decay": "projects.MAE.optim.param_groups",
    "projects.MAE.utils.scheduler": "projects.MAE.optim.schedule",
}
RECIPES = "projects.MAE.configs"
# What of `finetune` a configuration may leave out. enable=None: where finetune.path is set.
FINETUNE = dict(enable=None, weight_style=None, path="", ema=False)


def load_config(path, overrides=(), said=None):
    """Load a LazyConfig file with overrides: its groups of settings are checked, values not yet.

    Of two settings that mean one thing the one that the user has set counts, see `alternatives.py`.

    Args:
        overrides: strings `dotted.key=value`; values as Hydra reads them (numbers, null, lists),
            everything else is a string.
        said: a list that gets a line for each setting that was given up for another.
    """
    cfg, written = _load_file(path)
    check_kinds(cfg)
    for override in overrides:
        if "=" not in override or override.startswith("-"):
            raise UserError(f"argument {override!r} is neither an option nor key=value; see --help")
        key, text = override.split("=", 1)
        _check_key(cfg, key)
        try:
            OmegaConf.update(cfg, key, _value_for(cfg, key, override, text), merge=True)
        except (OmegaConfBaseException, IndexError, ValueError, TypeError) as error:
            raise UserError(f"{override}: {str(error).splitlines()[0]}") from None
        written.append((COMMAND_LINE, key))
    check_groups(cfg)
    overridden = {key for layer, key in written if layer == COMMAND_LINE}
    named = [key for key in ("finetune.path", "finetune.weight_style") if key in overridden]
    if named == ["finetune.path"] and not path.endswith(".py"):
        cfg.finetune.weight_style = None  # was that of other weights
    if any(key == "data.exif" and not is_recipe(layer) for layer, key in written):
        # Of weights that don't say, too: a recipe's value is not what somebody wants of them.
        OmegaConf.update(cfg, "train.evaluation.exif", "${oc.select:data.exif,null}")
    lines = [*settle(cfg, written), *_settle_finetune(cfg, overridden)]
    if said is not None:
        said.extend(lines)
    return cfg


def _settle_finetune(cfg, overridden):
    """finetune.path alone is enough; yields a line where what a file says of it is given up."""
    node = cfg.finetune
    if node.path and "finetune.path" in overridden and "finetune.enable" not in overridden:
        if node.enable is False:
            yield "finetune.path was set, so finetune.enable=True"
        node.enable = True
    if node.enable is None:
        node.enable = bool(node.path)
    if node.path and node.enable is False:
        yield f"finetune.path={node.path} is not used: finetune.enable=False"
    if node.get("ema") is True and node.enable is False:
        yield "finetune.ema=True is not used: finetune.enable=False"


def expand_home(cfg):
    """Write out a leading ~ in the paths of a run, which a shell leaves alone in `key=~/folder`."""
    for key in ("train.output_dir", "train.load_weight", "finetune.path"):
        path = OmegaConf.select(cfg, key)
        if isinstance(path, str) and path.startswith("~"):
            OmegaConf.update(cfg, key, os.path.expanduser(path))


def writable(cfg):
    """A copy of a configuration that can be written into."""
    copied = copy.deepcopy(cfg)
    OmegaConf.set_readonly(copied, False)
    return copied


def save_config(cfg, path):
    """Write a configuration as YAML, from which `load_config` makes the same one.

    LiBai writes one that YAML can't hold, with a lambda or an object, as NAME.pkl, and only logs what
    else went wrong.

    Raises:
        UserError: neither could be written.
    """
    beside = f"{path}.partial"
    LazyConfig.save(writable(cfg), beside)  # which writes into what it saves
    kinds = [kind for kind in ("", ".pkl") if os.path.exists(beside + kind)]
    if not kinds:
        raise UserError("the configuration can't be written", path=path)
    for kind in kinds:
        sync(beside + kind)
        rename(beside + kind, path + kind)


def _load_file(path):
    """The configuration of a file, and what `watched_settings` gives."""
    if not os.path.isfile(path):
        what = "is a folder, not a file" if os.path.isdir(path) else "no such file"
        raise UserError(f"--config-file {path}: {what}")
    if not path.endswith((".py", ".yaml", ".yml")):
        raise UserError(f"--config-file {path} must be a Python file, NAME.py")
    # A configuration that was loaded before may have written into the recipes that it imported.
    for name in [name for name in sys.modules if name.startswith(RECIPES)]:
        del sys.modules[name]
    try:
        with keeps_import(), watched_settings() as written, kept_names() as names:
            cfg = LazyConfig.load(path)
        written = [(file, key) for file, key in written if file != __file__]  # LiBai puts all together
    except (UserError, KeyboardInterrupt):
        raise
    except BaseException as error:  # it runs as a program, so anything may go wrong in it
        raise UserError(_what_failed(path, error)) from error
    if not isinstance(cfg, DictConfig):
        raise UserError(f"--config-file {path} holds no settings: see projects/MAE/configs")
    written += [(path, key) for key in sorted(plain_settings(names))]
    for name in set(NODES) & set(names) - set(cfg):
        if not callable(names[name]) and not inspect.ismodule(names[name]):
            cfg[name] = names[name]
    if not path.endswith(".py"):
        content = OmegaConf.to_container(cfg, resolve=False)
        cfg = OmegaConf.create(_with_modules_of_today(content), flags={"allow_objects": True})
        if OmegaConf.select(cfg, "train.start_iter") is not None:  # an earlier version's, see `_say`
            written = [(path, "train.train_iter"), (path, "optim.lr")]
    if isinstance(cfg.get("finetune", {}), (dict, DictConfig)):
        cfg.finetune = {**FINETUNE, **cfg.get("finetune", {})}
    return cfg, written


def _with_modules_of_today(value):
    """What a YAML file holds, with every call's `_target_` in the module where it is today."""
    if isinstance(value, list):
        return [_with_modules_of_today(item) for item in value]
    if not isinstance(value, dict):
        return value
    found = {key: _with_modules_of_today(item) for key, item in value.items()}
    if isinstance(found.get("_target_"), str):
        module, _, name = found["_target_"].rpartition(".")
        found["_target_"] = f"{FORMER_MODULES.get(module, module)}.{name}"
    return found


def _what_failed(path, error):
    """One line for an error in a configuration file, with the file and the line it is in."""
    if isinstance(error, SyntaxError) and isinstance(error.__cause__, SyntaxError):
        error = error.__cause__  # LiBai's names the file only
        file, line = error.filename, error.lineno
        file = path if file in (None, "<unknown>") else file
    else:
        file, line = path, None
        for frame, number in traceback.walk_tb(error.__traceback__):
            if frame.f_globals.get("__package__", "").startswith(_CFG_PACKAGE_NAME):
                file, line = frame.f_code.co_filename, number
    if isinstance(error, SyntaxError) and error.filename not in (None, "<unknown>", file):
        reason = f"{error.msg} ({error.filename}, line {error.lineno})"  # in a module it imports
    else:
        reason = error.msg if isinstance(error, SyntaxError) else " ".join(str(error).split())
    if isinstance(error, AttributeError) and reason.startswith("'dict' object has no attribute"):
        reason += ": write group['key'] = value, or make the group with OmegaConf.create({...})"
    if isinstance(error, SystemExit):
        reason = f"{error.code}: " if isinstance(error.code, str) else ""
        reason += "take out what ends the program"
    where = f"{file}, line {line}" if line else file
    return f"--config-file {where}: {type(error).__name__}: {reason}"


def _value_for(cfg, key, override, text):
    """An override's value; a number is a text where a text stood: a folder may have its name."""
    value = _parse_value(override, text)
    is_number = isinstance(value, (int, float)) and not isinstance(value, bool)
    group, _, name = key.rpartition(".")
    node = OmegaConf.select(cfg, group) if is_number and group else None
    if not isinstance(node, DictConfig) or OmegaConf.is_interpolation(node, name):
        return value
    return text.strip() if isinstance(node.get(name), str) else value


def _parse_value(override, text):
    try:
        parsed = OverridesParser.create().parse_override(override)
    except HydraException:
        return text  # a path with blanks or brackets, say
    # A sweep over several values is none of ours: it is a path with a comma.
    return text if parsed.is_sweep_override() else parsed.value()


def _check_key(cfg, key):
    """Raise a UserError unless key exists in cfg or is an argument of the call it belongs to."""
    node, done = cfg, []
    for part in key.split("."):
        known = _known_keys(node, ".".join(done))
        if part not in known:
            near = difflib.get_close_matches(part, known, n=1)
            where = ".".join(done) or "the configuration"
            hint = f"did you mean {'.'.join(done + near)}?" if near else f"there are: {', '.join(known)}"
            raise UserError(f"unknown key {key}: {where} has no {part!r}; {hint}")
        done.append(part)
        node = _child(node, part)


def _child(node, part):
    if isinstance(node, ListConfig):
        return node[int(part)]
    return node.get(part) if isinstance(node, DictConfig) else None


def _known_keys(node, place):
    if isinstance(node, ListConfig):
        return [str(i) for i in range(len(node))]
    if not isinstance(node, DictConfig):
        return []
    known = [str(k) for k in node.keys() if k != "_target_"]
    if is_call(node):
        parameters = inspect.signature(target_of(place, node)).parameters
        known += [name for name in parameters if name not in known + ["self"]]
    return known
