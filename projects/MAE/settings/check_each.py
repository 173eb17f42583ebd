"""Walks through a configuration and holds each setting against the table of `rules.py`."""
import difflib
import fnmatch
import inspect

from omegaconf import DictConfig, ListConfig, OmegaConf
from omegaconf.errors import InterpolationResolutionError, OmegaConfBaseException

from projects.MAE.errors import UserError
from projects.MAE.runtime.lazy_call import class_name, is_call, name_of_call, target_of
from projects.MAE.settings.rules import ARGUMENTS, OPTIONAL, RULES

NEEDED = ("model", "train", "graph", "optim", "dataloader")
NODES = (*NEEDED, "data", "finetune", "vit")
# Arguments that calls get when they are made.
GIVEN = (
    *("model", "optimizer", "max_iter", "warmup_iter"),
    *("global_batch_size", "start_iter", "train_iter", "test_batch_size"),
)
GROUPS = ("train", "data", "graph", "finetune", "dataloader")  # all in them is the program's
LONGEST_VALUE = 80  # characters of a value in a message
SIMILAR = 0.75  # from 0 to 1, of a misspelt key to a known one, as difflib measures it


def check_each(cfg):
    """Raise a UserError for the first setting that is unknown or no value for its key."""
    # What others refer to comes first, so that an error names the place to mend.
    first = ("vit", "train", "model", "data")
    for key, name, value in settings(cfg, order=lambda part: part not in first):
        rule = rule_of(name)
        if rule and not rule.fits(value):
            raise UserError(f"{key}={_text(value)} must be {rule.must_be}")
        if not rule:
            _check_spelling(key, name)
        if is_call(value):
            _check_call(key, value)


def unread(cfg):
    """Yield a line for each setting in the program's groups that it doesn't have, as `train.epochs`.

    Not for one that another refers to, nor of a configuration that an earlier version has written.
    """
    if "start_iter" in cfg.train:
        return
    text, group = str(OmegaConf.to_container(cfg, resolve=False)), None
    for key, name, value in settings(cfg):
        top, _, rest = key.partition(".")
        if key != name or top not in GROUPS or not rest or (group and key.startswith(f"{group}.")):
            continue
        known = rule_of(name) or any(n.startswith(f"{name}.") for n in RULES)
        if not known and key not in text:
            group = key
            yield f"{key}={_text(value)} is no setting of this program: nothing reads it"


def check_kinds(cfg):
    """Raise a UserError for a top-level node of another kind than it must be: `train = 3`."""
    for key in NODES:
        if key in cfg and not isinstance(cfg[key], DictConfig):
            one = next((name for name in RULES if name.startswith(f"{key}.")), key)
            group = f"a group of settings: set {one} and the like"
            kind = RULES[key].must_be if key in RULES else group
            raise UserError(f"{key}={_text(cfg[key])} must be {kind}")


def check_groups(cfg):
    """Raise a UserError unless a configuration has the groups and keys that the program reads."""
    check_kinds(cfg)
    for key in NEEDED:
        if key not in cfg:
            raise UserError(
                f"the configuration has no {key}: begin with one of projects/MAE/configs, as "
                "quickstart_finetune.py does with mae_finetune.py"
            )
    for name in RULES:
        if "*" not in name and name.split(".")[0] not in ARGUMENTS:
            _check_place(cfg, name)
    if "vit" in cfg:  # which others refer to
        _check_size(cfg.vit)


def _check_place(cfg, name):
    node, done, parts = cfg, "", name.split(".")
    for i, part in enumerate(parts):
        if not isinstance(node, DictConfig):
            raise UserError(
                f"{done}={_text(node)} must be a group of settings: set "
                f"{done}.{'.'.join(parts[i:])} and the like"
            )
        done = f"{done}.{part}" if done else part
        if part not in node:
            if not name.startswith(OPTIONAL):
                raise UserError(
                    f"the configuration has no {done}: begin with `from .common.train import "
                    "graph, train`, as the recipes do"
                )
            return
        if i < len(parts) - 1:
            node = node[part]


def settings(node, place="", owner="", order=None):
    """Every setting below a node, from the top down; a UserError for one without a value.

    Args:
        node: DictConfig or ListConfig.
        place, owner: its own key and name.
        order: sorts its parts, if given.

    Yields:
        (key, name, value): the dotted key; the name under which the table has it, which counts
        from the call that a setting is an argument of; the value, references resolved.
    """
    parts = range(len(node)) if isinstance(node, ListConfig) else list(node)
    for part in sorted(parts, key=order) if order else parts:
        key = f"{place}.{part}" if place else str(part)
        name = ".".join(filter(None, (owner, "*" if isinstance(node, ListConfig) else str(part))))
        try:
            value = node[part]
        except InterpolationResolutionError as error:
            raise UserError(f"{key}: {str(error).splitlines()[0]}") from None
        except OmegaConfBaseException:
            raise UserError(f"{key} has no value, only ???: set it") from None
        if part == "_target_":
            continue
        yield key, name, value
        if isinstance(value, (DictConfig, ListConfig)):
            below = name_of_call(value) or "own" if is_call(value) else name
            yield from settings(value, key, below)


def _check_spelling(key, name):
    """Raise a UserError for an unknown key that looks like a known one of its group; a key that looks
    like none is the user's own."""
    group, _, part = name.rpartition(".")
    known = {n[len(group) + 1 :].split(".")[0] for n in RULES if n.startswith(f"{group}.")}
    near = [] if part in known else difflib.get_close_matches(part, known, n=1, cutoff=SIMILAR)
    if group and near:
        place = key.rpartition(".")[0]
        raise UserError(f"unknown key {key}: {place} has no {part!r}; did you mean {place}.{near[0]}?")


def rule_of(name):
    """The rule of a setting's name, or None."""
    if name in RULES:
        return RULES[name]
    patterns = (p for p in RULES if "*" in p and p.count(".") == name.count("."))
    return next((RULES[p] for p in patterns if fnmatch.fnmatchcase(name, p)), None)


def _check_size(vit):
    sizes = [str(key) for key in vit if isinstance(vit[key], DictConfig)]
    if vit.get("size") not in sizes:
        raise UserError(f"vit.size={vit.get('size')} must be {' or '.join(sizes)}")


def _check_call(key, node):
    """Raise a UserError for an argument that a call has not, or one that it lacks."""
    parameters = inspect.signature(target_of(key, node)).parameters
    if any(p.kind in (p.VAR_KEYWORD, p.VAR_POSITIONAL) for p in parameters.values()):
        return
    for argument in node:
        if argument != "_target_" and argument not in parameters:
            near = difflib.get_close_matches(argument, parameters, n=1)
            hint = f"did you mean {key}.{near[0]}?" if near else f"there are: {', '.join(parameters)}"
            raise UserError(f"unknown key {key}.{argument}: {key} has no {argument!r}; {hint}")
    for argument, parameter in parameters.items():
        if parameter.default is parameter.empty and argument not in (*node, *GIVEN):
            raise UserError(f"{key}.{argument} is missing: {class_name(node)} needs it")


def _text(value):
    text = "null" if value is None else " ".join(str(value).split())
    return text if len(text) <= LONGEST_VALUE else text[: LONGEST_VALUE - 3] + "..."
