"""OneFlow's AdamW is the reference's: where eps enters, bias correction, decoupled decay."""
import numpy as np
import oneflow as flow
import pytest

from projects.MAE.modeling.graph import TrainGraph
from tests.support.golden_models import to_global

RATE, BETAS, DECAY = 1e-2, (0.9, 0.95), 0.05


class Linear(flow.nn.Module):
    """A loss whose gradient is its input."""

    def __init__(self, start):
        super().__init__()
        self.weight = flow.nn.Parameter(to_global(start))

    def forward(self, gradient):
        return {"losses": (self.weight * gradient).sum()}

    @staticmethod
    def set_pipeline_stage_id(model):
        return


def reference(start, gradients, eps):
    """Loshchilov and Hutter (arXiv 1711.05101), in the order PyTorch computes it, in float64."""
    x, m, v = start.astype(np.float64), 0.0, 0.0
    for t, gradient in enumerate(gradients.astype(np.float64), start=1):
        m = BETAS[0] * m + (1 - BETAS[0]) * gradient
        v = BETAS[1] * v + (1 - BETAS[1]) * gradient**2
        x = x * (1 - RATE * DECAY)
        denominator = np.sqrt(v) / np.sqrt(1 - BETAS[1] ** t) + eps
        x = x - RATE / (1 - BETAS[0] ** t) * m / denominator
    return x


@pytest.mark.parametrize("mode", ["graph", "eager"])
@pytest.mark.parametrize("eps, scale", [(1e-8, 1.0), (1e-3, 1e-3), (1e-8, 1e-8)])
def test_adamw(mode, eps, scale):
    gradients = (np.random.default_rng(0).standard_normal((8, 6)) * scale).astype(np.float32)
    start = np.linspace(-1, 1, 6).astype(np.float32)
    model = Linear(start.copy())  # a tensor from NumPy shares its memory
    optimizer = flow.optim.AdamW(
        [model.weight], lr=RATE, betas=BETAS, eps=eps, weight_decay=DECAY
    )
    graph = TrainGraph(model, optimizer, None)
    for gradient in map(to_global, gradients):
        if mode == "graph":
            graph(gradient=gradient)
        else:
            model(gradient)["losses"].backward()
            optimizer.step()
            optimizer.zero_grad()
    np.testing.assert_allclose(model.weight.numpy(), reference(start, gradients, eps), atol=5e-7)
