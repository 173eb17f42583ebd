"""The operators that the native kernels add, and layers of LiBai that need them, forward and backward."""
import numpy as np
import oneflow as flow
import pytest
from libai.layers import LayerNorm, TransformerLayer
from scipy.special import erf

from projects.MAE.modeling.one_operator import (
    attention,
    attention_branch,
    linear,
    mlp_branch,
)
from tests.native.library import close, normal_density, random, run
from tests.support.short_graphs import launched

pytestmark = pytest.mark.usefixtures("native_kernels")


@pytest.mark.parametrize("size", [(0, 3, 2, 4), (1, 1, 1, 1), (2, 7, 3, 5), (3, 50, 2, 16)])
def test_attention(size):
    n, length, heads, width = size
    qkv = random(n, length, heads, 3 * width)
    results = run(lambda t: attention(t.reshape(n, length, heads * 3 * width), width), qkv)
    widths = (width, width, 3 * width)
    out, dout, dqkv = (a.reshape(n, length, heads, w) for a, w in zip(results, widths))
    q, k, v = np.split(qkv.astype(float).transpose(0, 2, 1, 3), 3, axis=-1)
    scores = q @ k.transpose(0, 1, 3, 2) / np.sqrt(width)
    e = np.exp(scores - scores.max(axis=-1, keepdims=True))
    p = e / e.sum(axis=-1, keepdims=True)
    close(out, (p @ v).transpose(0, 2, 1, 3))
    g = dout.astype(float).transpose(0, 2, 1, 3)
    dp = g @ v.transpose(0, 1, 3, 2)
    ds = p * (dp - (p * dp).sum(axis=-1, keepdims=True)) / np.sqrt(width)
    parts = [ds @ k, ds.transpose(0, 1, 3, 2) @ q, p.transpose(0, 1, 3, 2) @ g]
    close(dqkv, np.concatenate(parts, axis=-1).transpose(0, 2, 1, 3))


@pytest.mark.parametrize("gelu", [False, True])
@pytest.mark.parametrize("names", [(), ("bias",), ("residual",), ("bias", "residual")])
@pytest.mark.parametrize("size", [(0, 3, 4), (1, 1, 1), (6, 5, 3), (33, 17, 70)])
def test_linear(size, names, gelu):
    rows, inner, outer = size
    given = {"bias": random(outer, seed=2), "residual": random(rows, outer, seed=3)}
    given = {name: given[name] for name in names}
    x, weight = random(rows, inner), random(inner, outer, seed=1)

    def function(x, weight, *others):
        return linear(x, weight, gelu=gelu, **dict(zip(names, others)))

    y, dy, dx, dweight, *others = run(function, x, weight, *given.values())
    exact = x.astype(float)
    cumulative = 0.5 * (1 + erf(exact / np.sqrt(2)))
    activated = exact * cumulative if gelu else exact
    close(y, activated @ weight + sum(given.values(), 0.0))
    slope = cumulative + exact * normal_density(exact) if gelu else 1.0
    close(dx, dy @ weight.T.astype(float) * slope)
    close(dweight, activated.T @ dy)
    expected = {"bias": dy.sum(axis=0), "residual": dy}
    for name, actual in zip(names, others):
        close(actual, expected[name])


class Layer:
    """What the branches read of a layer norm (eps) or a linear layer."""

    eps = 1e-6

    def __init__(self, weight, bias):
        self.weight, self.bias = weight, bias


def plain_branch(kind, head_size, scale):
    """The same branch from single operators, as a function of x and the parameters."""

    def function(x, gamma, beta, weight1, bias1, weight2, bias2):
        normed = flow._C.layer_norm_affine(
            x, gamma, beta, begin_norm_axis=2, begin_params_axis=2, epsilon=Layer.eps
        )
        hidden = linear(normed, weight1, bias1)  # OneFlow's own takes no empty x
        inner = attention(hidden, head_size) if kind == "attention" else flow._C.gelu(hidden)
        y = linear(inner, weight2, bias2)
        return x + (y if scale is None else y * scale.unsqueeze(-1))

    return function


@pytest.mark.parametrize("scale", [None, "all", "some", "none"])
@pytest.mark.parametrize("kind", ["attention", "mlp"])
@pytest.mark.parametrize("size", [(0, 3, 4), (1, 1, 4), (3, 7, 12), (5, 33, 20)])
def test_branches_are_their_parts(size, kind, scale):
    n, length, width = size
    heads, head_size = 2, 3
    inner = heads * head_size if kind == "attention" else 4 * width
    x = random(n, length, width) + 1
    shapes = [(width,), (width,), (width, 3 * inner if kind == "attention" else inner)]
    shapes += [shapes[2][1:], (inner, width), (width,)]
    parameters = [random(*shape, seed=i) for i, shape in enumerate(shapes, 1)]
    if scale is not None:  # the samples that are kept
        kept = {"all": [1] * n, "some": [i % 2 for i in range(n)], "none": [0] * n}[scale]
        scale = flow.tensor(kept, dtype=flow.float32).reshape(n, 1) * 1.25

    def branch(x, gamma, beta, weight1, bias1, weight2, bias2):
        layers = Layer(gamma, beta), Layer(weight1, bias1), Layer(weight2, bias2)
        if kind == "attention":
            return attention_branch(x, *layers, head_size, scale)
        return mlp_branch(x, *layers, scale)

    found = run(branch, x, *parameters)
    expected = run(plain_branch(kind, head_size, scale), x, *parameters)
    for actual, wanted in zip(found, expected):
        close(actual, wanted, 2e-5 * max(1, abs(wanted).max(initial=0)))


LAYERS = [(TransformerLayer, (12, 48, 3)), (LayerNorm, (12,))]


def own_layers():
    """Three steps of training each, as tests/support/short_graphs.py launches them."""
    return {kind.__name__: lambda k=kind, s=sizes: trained(k(*s)) for kind, sizes in LAYERS}


def trained(layer):
    """{"losses": [3]} of a layer of LiBai's."""

    class Training(flow.nn.Graph):
        def __init__(self):
            super().__init__()
            self.layer = layer.train()
            self.add_optimizer(flow.optim.SGD(layer.parameters(), lr=0.1))

        def build(self, x):
            loss = (self.layer(x) ** 2).mean()
            loss.backward()
            return loss

    placement = flow.placement("cpu", [0])
    x = flow.tensor(random(2, 5, 12)).to_global(placement=placement, sbp=flow.sbp.broadcast)
    graph = Training()
    return {"losses": flow.tensor([graph(x).item() for _ in range(3)])}


def test_libais_own_layers_learn(tmp_path):
    found = launched("tests.native.test_operators:own_layers", tmp_path)
    assert set(found) == {kind.__name__ for kind, _ in LAYERS}
    for results in found.values():
        first, second, third = results["losses"]
        assert first > second > third
