"""What a LazyCall of the configuration calls: by name, imported, called."""
import copy
import inspect

from hydra.errors import InstantiationException
from libai import config
from libai.config.lazy import locate
from omegaconf import DictConfig, OmegaConf

from projects.MAE.errors import UserError


def is_call(value):
    """Whether a value is a LazyCall's description of a call."""
    return isinstance(value, DictConfig) and "_target_" in value


def class_name(call):
    """The name of what a LazyCall makes."""
    target = call["_target_"]
    return target.rsplit(".", 1)[-1] if isinstance(target, str) else target.__name__


def name_of_call(node):
    """The name of what a LazyCall calls, "" for what is not the project's or OneFlow's."""
    target = node["_target_"]
    if not isinstance(target, str):
        target = f"{target.__module__}.{getattr(target, '__qualname__', '')}"
    name = target.rsplit(".", 1)[-1]
    return name if target.startswith(("projects.MAE.", "oneflow.")) else ""


def target_of(key, node):
    """What a LazyCall calls, imported; a UserError where there is none, or nothing to call."""
    target = node["_target_"]
    try:
        target = locate(target) if isinstance(target, str) else target
        inspect.signature(target)
    except (ImportError, ValueError, TypeError) as error:
        reason = " ".join(str(error).split())
        raise UserError(f"{key}._target_={node['_target_']} can't be called: {reason}") from error
    return target


def instantiate(node):
    """LiBai's `instantiate`, which lets a user's mistake through.

    Symptom: LiBai's main branch raises an InstantiationException for whatever a constructor raises,
    so that a mistake in the data ends in a traceback. Removable when a LiBai that lets exceptions
    through, as 0.1.1 does, is the only one.

    What is made gets a copy of its arguments, which it may write into, as in LiBai: the
    configuration of a run is read-only.
    """
    if OmegaConf.is_config(node):
        node = copy.deepcopy(node)
        OmegaConf.set_readonly(node, False)
    try:
        return config.instantiate(node)
    except InstantiationException as error:
        cause = error
        while isinstance(cause, InstantiationException) and cause.__cause__ is not None:
            cause = cause.__cause__
        if isinstance(cause, UserError):
            raise cause from None
        raise


def call(node, **given):
    """`instantiate` of a LazyCall with further arguments, which win over its own.

    They are objects, which no configuration can hold.

    Raises:
        UserError: what is called, one of the user's own, takes no such arguments.
    """
    ours = {name: value for name, value in node.items() if name not in ("_target_", *given)}
    ours = {k: instantiate(v) if OmegaConf.is_config(v) else v for k, v in ours.items()}
    target = target_of("", node)
    try:
        inspect.signature(target).bind(**ours, **given)
    except TypeError as error:
        takes = ", ".join(sorted({*ours, *given}))
        raise UserError(f"{class_name(node)} is called with {takes}, and can't be: {error}") from None
    return target(**ours, **given)
