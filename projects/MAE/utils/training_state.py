"""Loads what a run goes on with besides its weights: its optimizer's state, and its schedule's step.

Rates, their schedule and all options of the optimizer are those of the configuration, so that a
run may be resumed with another length or rate.
"""
import oneflow as flow

from projects.MAE.modeling.initialization import named_tensors
from projects.MAE.utils.libai_folder import read_part, replace_tensors
from projects.MAE.utils.state_checks import MODEL, check_graph, check_optimizer, step_of


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
