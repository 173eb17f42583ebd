"""LARS, the optimizer of linear probing (You et al., arXiv 1708.03888)."""
import oneflow as flow
from oneflow.optim import Optimizer

from projects.MAE.errors import UserError


class LARS(Optimizer):
    """Momentum on gradients that are as long as their weights, up to the trust coefficient.

    g = gradient + weight_decay * w;  g = trust_coefficient * |w| / |g| * g;
    v = momentum * v + g;  w = w - lr * v

    1-D parameters take their gradient as it is, without decay. The norms are those of whole
    tensors, however they are split over ranks. This is the form of MoCo v3 and the authors of MAE.

    OneFlow's graphs have a LARS of their own, but it multiplies the rate into v, which is another
    step as soon as the rate changes; so this one is for eager mode.
    """

    def __init__(self, params, lr=0.0, weight_decay=0.0, momentum=0.9, trust_coefficient=0.001):
        options = dict(lr=lr, weight_decay=weight_decay, momentum=momentum)
        super().__init__(params, dict(options, trust_coefficient=trust_coefficient))
        for group in self.param_groups:
            for parameter in group.parameters:
                self._state[parameter] = {"momentum_buf": flow.zeros_like(parameter)}

    def step(self, closure=None):
        """Update every parameter that has a gradient; returns closure() if there is one."""
        loss = closure() if closure is not None else None
        with flow.no_grad():
            for group in self.param_groups:
                for parameter in group.parameters:
                    if parameter.grad is not None:
                        self._update(parameter, group)
        self._state["step"] += 1
        return loss

    def _update(self, parameter, group):
        gradient = parameter.grad.to_global(sbp=parameter.sbp)
        if parameter.ndim > 1:
            gradient = gradient + parameter * group["weight_decay"]
            gradient = gradient * trust_ratio(parameter, gradient, group["trust_coefficient"])
        state = self._state[parameter]
        state["momentum_buf"] = state["momentum_buf"] * group["momentum"] + gradient
        parameter.copy_(parameter - state["momentum_buf"] * group["lr"])

    def _generate_conf_for_graph(self, train_conf, vars_conf):
        raise UserError("optim: LARS runs in eager mode: set graph.enabled=False")


def trust_ratio(weight, gradient, coefficient):
    """coefficient * |weight| / |gradient|, or 1 where one of them is zero: a scalar tensor."""
    length, step = _norm(weight), _norm(gradient)
    defined = (length > 0).to(length.dtype) * (step > 0).to(step.dtype)
    ratio = length * coefficient / (step + (1.0 - defined))
    return ratio * defined + (1.0 - defined)


def _norm(tensor):
    return (tensor * tensor).sum().sqrt()
