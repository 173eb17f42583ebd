"""From a LazyConfig file and the command line to a checked configuration."""
import difflib
import inspect
import os

from hydra.core.override_parser.overrides_parser import OverridesParser
from hydra.errors import HydraException
from libai.config import LazyConfig
from libai.config.lazy import locate
from omegaconf import DictConfig, ListConfig, OmegaConf
from omegaconf.errors import OmegaConfBaseException

from projects.MAE.errors import UserError


def load_config(path, overrides=()):
    """Load a LazyConfig file and apply `key=value` overrides.

    Args:
        path: the configuration file.
        overrides: strings `dotted.key=value`; values as Hydra reads them (numbers, null, lists),
            everything else is a string.

    Returns:
        The configuration, not yet checked.

    Raises:
        UserError: no such file, an override without '=', or one of a key that doesn't exist.
    """
    if not os.path.isfile(path):
        raise UserError(f"--config-file {path}: no such file")
    cfg = LazyConfig.load(path)
    for override in overrides:
        if "=" not in override or override.startswith("-"):
            raise UserError(f"argument {override!r} is neither an option nor key=value; see --help")
        key, text = override.split("=", 1)
        _check_key(cfg, key)
        try:
            OmegaConf.update(cfg, key, _parse_value(override, text), merge=True)
        except (OmegaConfBaseException, IndexError, ValueError, TypeError) as error:
            raise UserError(f"{override}: {str(error).splitlines()[0]}") from None
    return cfg


def kind_of_model(cfg):
    """The class name of a configuration's model."""
    target = cfg.model["_target_"]
    return target.rsplit(".", 1)[-1] if isinstance(target, str) else target.__name__


def _parse_value(override, text):
    try:
        return OverridesParser.create().parse_override(override).value()
    except HydraException:
        return text  # a path with blanks or brackets, say


def _check_key(cfg, key):
    """Raise a UserError unless key exists in cfg or is an argument of the call it belongs to."""
    node, done = cfg, []
    for part in key.split("."):
        known = _known_keys(node)
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


def _known_keys(node):
    if isinstance(node, ListConfig):
        return [str(i) for i in range(len(node))]
    if not isinstance(node, DictConfig):
        return []
    known = [str(k) for k in node.keys() if k != "_target_"]
    target = node.get("_target_")
    if target is not None:
        target = locate(target) if isinstance(target, str) else target
        known += [n for n in inspect.signature(target).parameters if n not in known + ["self"]]
    return known
