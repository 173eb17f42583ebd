"""Loads what a run goes on with besides its weights: its optimizer's state, and its schedule's step.

Rates, their schedule and all options of the optimizer are those of the configuration, so that a
run may be resumed with another length or rate.
"""
import itertools

import numpy as np
import oneflow as flow

from projects.MAE.checkpoint.reader import Tensor, read_part, replace_tensors
from projects.MAE.errors import UserError
from projects.MAE.modeling.initialization import named_tensors

# OneFlow's names of a graph's own numbers, a counter each but one; the rest is `model.NAME-STATE`.
OWN, LOSS_SCALE = "System-", "-LossScale"
MODEL = "model"  # LiBai saves the weights here once more


def load_state(part, folder, model):
    """Load a checkpoint's part into what it is of; every rank calls this.

    Args:
        part: an optimizer, a graph that has one, or a schedule.
        folder: the part's folder.
        model: the model that is trained.

    Raises:
        UserError: damaged, of another kind, or of a model of another size; nothing was loaded.
    """
    saved = read_part(folder)
    if isinstance(part, flow.nn.Graph):
        trained = {name: t for name, t in named_tensors(model).items() if t.requires_grad}
        check_graph(saved, folder, {name: tuple(t.shape) for name, t in trained.items()})
        saved.pop(MODEL, None)
        part.load_state_dict(replace_tensors(saved, _on_rank_0))
    elif isinstance(part, flow.optim.Optimizer):
        groups = [group.parameters for group in part.param_groups]
        check_optimizer(saved, folder, [[tuple(p.shape) for p in group] for group in groups])
        state = replace_tensors(saved["state"], _on_rank_0)
        own = part.state_dict()["param_groups"]
        part.load_state_dict({"state": state, "param_groups": own})
    else:
        part.last_step = step_of(saved, folder) - 1
        part.step()


def _on_rank_0(tensor):
    """A saved tensor as OneFlow's own loader gives it: global, whole, on rank 0's CPU."""
    if flow.env.get_rank() == 0:
        local = flow.from_numpy(tensor.read("the optimizer's state"))
    else:
        local = flow.tensor([])
    return local.to_global(flow.placement("cpu", [0]), flow.sbp.broadcast)


def step_of(state, folder):
    """The step that a schedule's state stands at; a UserError where it is no schedule's."""
    step = state.get("last_step") if isinstance(state, dict) else None
    if type(step) is not int or not 0 <= step < 2**62:
        raise UserError("damaged, or no schedule's: it has no number last_step", path=folder)
    return step


def check_graph(state, folder, shapes):
    """Raise a UserError unless a part, as `read_part` gives it, is a graph's of its optimizer.

    Args:
        shapes: {name: shape} of the weights that are trained.
    """
    if not isinstance(state, dict) or not state:
        raise UserError("damaged, it is no dictionary of tensors", path=folder)
    check, found = _Tensors(folder), {}
    for name, tensor in state.items():
        if name == MODEL:
            continue
        if not isinstance(name, str) or not isinstance(tensor, Tensor):
            raise UserError("damaged, there is something that is no tensor with a name", path=folder)
        if name.startswith(OWN):
            check(tensor, name, np.float32 if name.endswith(LOSS_SCALE) else np.int64, (1,))
            continue
        weight, _, kind = name[len("model.") :].rpartition("-")
        if not name.startswith("model.") or weight not in shapes:
            raise UserError(f"{name} is of no weight of this model", path=folder)
        check(tensor, name, np.float32, shapes[weight])
        found.setdefault(kind, set()).add(weight)
    for kind, names in found.items():
        for missing in sorted(set(shapes) - names):
            raise UserError(f"model.{missing}-{kind} is missing", path=folder)


def check_optimizer(state, folder, shapes):
    """Raise a UserError unless a part, as `read_part` gives it, is an optimizer's of eager mode.

    Args:
        shapes: the shapes of the weights of each parameter group, in their order.
    """
    if not isinstance(state, dict) or not isinstance(state.get("state"), dict):
        raise UserError("damaged, or no optimizer's: it has no state", path=folder)
    every = [shape for group in shapes for shape in group]
    if _places(state.get("param_groups")) != _places_of(shapes):
        way_out = "set the weight decay and layer decay of optim.params back"
        raise UserError("its optimizer has other groups of weights", path=folder, way_out=way_out)
    check = _Tensors(folder)
    for key, value in state["state"].items():
        if type(key) is int and 0 <= key < len(every) and isinstance(value, dict):
            for name, item in value.items():
                if isinstance(item, Tensor):
                    check(item, f"the state of weight {key}", np.float32, every[key])
                elif not isinstance(name, str) or not _is_number(item):
                    raise UserError(f"damaged, the state of weight {key} is no tensor", path=folder)
        elif not (isinstance(key, str) and _is_number(value)):
            raise UserError("damaged, there is something that no optimizer keeps", path=folder)


class _Tensors:
    """Raises a UserError for a tensor of another type or shape, or one that stands for several."""

    def __init__(self, folder):
        self.folder, self.seen = folder, set()

    def __call__(self, tensor, name, wanted, wanted_shape):
        dtype, shape = tensor.check(name)
        if dtype != wanted:
            raise UserError(f"{name} is of {dtype}, not of {np.dtype(wanted)}", path=self.folder)
        if shape != tuple(wanted_shape):
            shapes = f"{shape}, this model needs {tuple(wanted_shape)}"
            what = f"{name} has shape {shapes}; is it of a model of another size?"
            raise UserError(what, path=self.folder)
        if tensor.folder in self.seen:
            raise UserError(f"refused: {tensor.folder} stands for several tensors", path=self.folder)
        self.seen.add(tensor.folder)


def _places(groups):
    """The places of each group's weights as an optimizer's state has them; None for no groups."""
    if not isinstance(groups, (list, tuple)) or not all(isinstance(g, dict) for g in groups):
        return None
    return [group.get("params") for group in groups]


def _places_of(shapes):
    every = itertools.count()
    return [[next(every) for _ in group] for group in shapes]


def _is_number(value):
    return type(value) in (int, float)
