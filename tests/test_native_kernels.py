"""The native CPU kernels against float64 NumPy, for every class of shape, in one process and split."""
import glob
import os
import subprocess
import sys

import numpy as np
import oneflow as flow
import pytest
from libai.layers import LayerNorm, TransformerLayer
from scipy.special import erf

from projects.MAE.modeling.native_operators import (
    attention,
    attention_branch,
    linear,
    mlp_branch,
)
from projects.MAE.utils import native
from tests.command import ROOT, environment

pytestmark = pytest.mark.usefixtures("native_kernels")

# Rows and width: nothing, one row, one column, odd, wider than a block of columns, many rows.
SHAPES = [(0, 5), (1, 1), (1, 33), (7, 1), (3, 17), (5, 64), (2, 197), (300, 65), (130, 1030)]
shapes = pytest.mark.parametrize("rows, width", SHAPES)


def random(*shape, seed=0):
    return np.random.default_rng(seed).standard_normal(shape).astype(np.float32)


def run(function, *arrays):
    """A function of tensors, forward and backward with random gradients.

    Returns:
        The result, the gradient of the result, and that of each argument, as arrays.
    """
    tensors = [flow.tensor(a, requires_grad=True) for a in arrays]
    result = function(*tensors)
    grad = random(*result.shape, seed=9)
    result.backward(flow.tensor(grad))
    return (result.detach().numpy(), grad, *(t.grad.numpy() for t in tensors))


def close(actual, expected, tolerance=1e-5):
    assert actual.shape == expected.shape
    np.testing.assert_allclose(actual, expected, rtol=tolerance, atol=tolerance)


def normal_density(x):
    return np.exp(-x * x / 2) / np.sqrt(2 * np.pi)


@shapes
def test_gelu(rows, width):
    x = 3 * random(rows, width)
    y, dy, dx = run(flow._C.gelu, x)
    x = x.astype(float)
    cumulative = 0.5 * (1 + erf(x / np.sqrt(2)))
    close(y, x * cumulative, 1e-6)
    close(dx, dy * (cumulative + x * normal_density(x)), 2e-6)


def test_gelu_of_every_magnitude():
    magnitudes = np.geomspace(1e-30, 1e30, 500, dtype=np.float32)
    x = np.concatenate([-magnitudes, [0.0], magnitudes])
    y, _, dx = run(flow._C.gelu, x)
    exact = x.astype(float)
    close(y / np.maximum(abs(x), 1), exact * 0.5 * (1 + erf(exact / 2**0.5)) / np.maximum(abs(x), 1))
    assert np.isfinite(dx).all()


def layer_norm(x, weight, bias):
    return flow._C.layer_norm_affine(
        x, weight, bias, begin_norm_axis=1, begin_params_axis=1, epsilon=1e-6
    )


@shapes
def test_layer_norm(rows, width):
    x, weight, bias = random(rows, width) + 2, random(width, seed=1), random(width, seed=2)
    y, dy, dx, dweight, dbias = run(layer_norm, x, weight, bias)
    x, dy = x.astype(float), dy.astype(float)
    inverse = 1 / np.sqrt(x.var(axis=1, keepdims=True) + 1e-6)
    z = (x - x.mean(axis=1, keepdims=True)) * inverse
    close(y, z * weight + bias)
    g = dy * weight
    mean, slope = g.mean(axis=1, keepdims=True), (g * z).mean(axis=1, keepdims=True)
    # A row of one element has no variance: its inverse is 1000, and so is the rounding.
    close(dx, inverse * (g - mean - z * slope), 1e-3 if width == 1 else 1e-5)
    close(dweight, (dy * z).sum(axis=0), 1e-4)
    close(dbias, dy.sum(axis=0), 1e-4)


@shapes
def test_softmax(rows, width):
    x = 5 * random(rows, width)
    y, dy, dx = run(lambda t: flow.softmax(t, dim=-1), x)
    e = np.exp(x.astype(float) - x.max(axis=1, keepdims=True, initial=-np.inf))
    p = e / e.sum(axis=1, keepdims=True)
    close(y, p, 1e-6)
    close(dx, p * (dy - (p * dy).sum(axis=1, keepdims=True)), 2e-6)


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


@shapes
def test_row_and_column_broadcasts(rows, width):
    x, row, column = random(rows, width), random(width, seed=1), random(rows, 1, seed=2) + 3
    for function in (
        lambda a, b: a + b,
        lambda a, b: a * b,
        lambda a, b: a - b,
        lambda a, b: a / b,
        lambda a, b: b - a,
    ):
        for other in (row + 3, column):
            actual = function(flow.tensor(x), flow.tensor(other)).numpy()
            close(actual, function(x.astype(float), other.astype(float)), 1e-6)


def test_broadcasts_of_other_patterns_are_left_to_oneflow():
    x = random(4, 3, 5)
    for shape in [(4, 3, 5), (3, 1), (4, 1, 5), (1, 3, 1), (5,), (4, 1, 1), (1, 1, 1), ()]:
        y = random(*shape, seed=1)
        close((flow.tensor(x) * flow.tensor(y)).numpy(), x * y, 1e-6)
        close((flow.tensor(y) + flow.tensor(x)).numpy(), y + x, 1e-6)


@shapes
def test_sums(rows, width):
    x = random(rows, width)
    for axis in (0, 1, (0, 1)):
        actual = flow.tensor(x).sum(dim=axis).numpy()
        close(actual, x.astype(float).sum(axis=axis), 1e-4)
    x = random(2, 3, 4, 5)
    for axis in ((0,), (1,), (3,), (0, 1), (1, 2), (2, 3), (0, 2), (0, 1, 2, 3)):
        close(flow.tensor(x).sum(dim=axis).numpy(), x.sum(axis=axis))


@pytest.mark.parametrize("count", [2, 3, 5])
def test_sum_of_several(count):
    arrays = [random(33, 130, seed=i) for i in range(count)]
    close(flow._C.add([flow.tensor(a) for a in arrays]).numpy(), sum(arrays))


def test_moves_are_exact():
    x = random(3, 4, 5, 6)
    for order in [(0, 2, 1, 3), (3, 2, 1, 0), (0, 1, 2, 3), (1, 2, 3, 0), (0, 3, 1, 2)]:
        moved = flow.tensor(x).permute(*order).contiguous().numpy()
        np.testing.assert_array_equal(moved, x.transpose(order))
    for axis, start, length in [(0, 1, 2), (1, 0, 4), (3, 2, 3), (2, 4, 1)]:
        index = tuple(slice(start, start + length) if a == axis else slice(None) for a in range(4))
        y, dy, dx = run(lambda t: flow.narrow(t, axis, start, length), x)
        np.testing.assert_array_equal(y, x[index])
        expected = np.zeros_like(x)
        expected[index] = dy
        np.testing.assert_array_equal(dx, expected)
    patches = random(2, 3, 8, 8)
    moved = flow.tensor(patches).reshape(2, 3, 2, 4, 2, 4).permute(0, 2, 4, 3, 5, 1).numpy()
    expected = patches.reshape(2, 3, 2, 4, 2, 4).transpose(0, 2, 4, 3, 5, 1)
    np.testing.assert_array_equal(moved, expected)


def test_what_is_not_contiguous():
    x = flow.tensor(random(40, 50))
    turned = x.T  # a view
    for function in (flow._C.gelu, lambda t: flow.softmax(t, dim=-1), lambda t: t.sum(dim=0)):
        np.testing.assert_array_equal(
            function(turned).numpy(), function(turned.contiguous()).numpy()
        )


@pytest.mark.parametrize("value", [np.nan, np.inf, -np.inf])
def test_what_is_not_finite_shows(value):
    x = random(2, 70)
    x[1, 3] = value
    outputs = {
        "softmax": flow.softmax(flow.tensor(x), dim=-1),
        "layer_norm": layer_norm(flow.tensor(x), flow.ones(70), flow.zeros(70)),
        "sum": flow.tensor(x).sum(dim=0),
    }
    if value == -np.inf:
        del outputs["softmax"]  # the weight of minus infinity is 0
    for name, output in outputs.items():
        assert np.isfinite(output.numpy()[0, 0] if output.ndim == 2 else 0.0), name
        assert not np.isfinite(output.numpy()).all(), name
    qkv = random(1, 4, 18)
    qkv[0, 1, 0] = value
    assert np.isnan(attention(flow.tensor(qkv), 3).numpy()).any()


@pytest.mark.parametrize("settings", [{}, {"weight_decay": 0.3}, {"do_bias_correction": False}])
def test_adamw(settings):
    """Against the formulas in the paper's order, five steps in float64."""
    weights = random(300, 5)
    options = dict({"weight_decay": 0.0, "do_bias_correction": True}, **settings)
    parameter = flow.nn.Parameter(flow.tensor(weights))
    optimizer = flow.optim.AdamW([parameter], lr=0.01, betas=(0.9, 0.95), eps=1e-8, **options)
    w, m, v = weights.astype(float), 0.0, 0.0
    for step in range(1, 6):
        gradient = random(300, 5, seed=step)
        parameter.grad = flow.tensor(gradient)
        optimizer.step()
        m, v = 0.9 * m + 0.1 * gradient, 0.95 * v + 0.05 * gradient.astype(float) ** 2
        corrected = options["do_bias_correction"]
        m_hat = m / (1 - 0.9**step) if corrected else m
        v_hat = v / (1 - 0.95**step) if corrected else v
        w = w - 0.01 * (m_hat / (np.sqrt(v_hat) + 1e-8) + options["weight_decay"] * w)
    close(parameter.detach().numpy(), w, 2e-6)


def with_blas(name):
    """An environment in which the kernels use "mkl" or "openblas"."""
    mkl = glob.glob(os.path.join(sys.prefix, "lib", "libmkl_rt.so.*"))[0]
    preload = mkl if name == "mkl" else ""
    return dict(environment(), MAE_BLAS=name, LD_PRELOAD=preload, PYTHONPATH=str(ROOT))


ON_SOME_THREADS = """
import sys, numpy as np, oneflow as flow
from projects.MAE.modeling.native_operators import linear
from projects.MAE.utils import native
assert native.load()
draw = np.random.default_rng(0).standard_normal
x, w = (flow.tensor(draw(s).astype("f"), requires_grad=True) for s in [(700, 301), (301,)])
# Products large enough to be cut for threads, to be cut for some of them, and not to be.
sizes = (301, 230), (230, 170), (170, 4)
weights = [flow.tensor(draw(s).astype("f") / 15, requires_grad=True) for s in sizes]
y = flow._C.layer_norm_affine(x, w, w, begin_norm_axis=1, begin_params_axis=1, epsilon=1e-6)
y = flow._C.gelu(y)
for weight in weights:
    y = linear(y, weight)
(y * y).sum().backward()
np.savez(sys.argv[1], y.detach().numpy(), *(t.grad.numpy() for t in (x, w, *weights)))
"""


@pytest.mark.parametrize("blas", ["mkl", "openblas"])
def test_threads_do_not_change_a_bit(tmp_path, blas):
    results = []
    for threads in ("1", "2", "3", "7"):
        path = tmp_path / f"{threads}.npz"
        env = dict(with_blas(blas), OMP_NUM_THREADS=threads, MKL_NUM_THREADS=threads)
        subprocess.run([sys.executable, "-c", ON_SOME_THREADS, path], env=env, check=True, cwd=ROOT)
        results.append(np.load(path))
    for result in results[1:]:
        for name in result.files:
            np.testing.assert_array_equal(results[0][name], result[name])


@pytest.mark.parametrize("layer", [TransformerLayer(12, 48, 3), LayerNorm(12)])
def test_libais_own_layers_learn(layer):
    class Training(flow.nn.Graph):
        def __init__(self):
            super().__init__()
            self.layer = layer
            self.add_optimizer(flow.optim.SGD(layer.parameters(), lr=0.1))

        def build(self, x):
            loss = (self.layer(x) ** 2).mean()
            loss.backward()
            return loss

    layer.train()
    placement = flow.placement("cpu", [0])
    x = flow.tensor(random(2, 5, 12)).to_global(placement=placement, sbp=flow.sbp.broadcast)
    graph = Training()
    losses = [graph(x).item() for _ in range(3)]
    assert losses[0] > losses[1] > losses[2]


def test_loading_after_operators_have_run():
    code = (
        "import numpy as np, oneflow as flow\n"
        "from projects.MAE.utils import native\n"
        "x = flow.ones(3, 5)\n"
        "def work():\n"
        "    y = flow._C.gelu(x + flow.ones(5)) * flow.ones(3, 1)\n"
        "    return flow.softmax(y + y, dim=-1).sum(dim=0).numpy()\n"
        "before = work()\n"
        "assert native.load()\n"
        "np.testing.assert_allclose(work(), before, rtol=1e-6)\n"
    )
    subprocess.run([sys.executable, "-c", code], check=True, cwd=ROOT)


def test_a_result_that_is_not_differentiated_does_not_outlive_python():
    code = (
        "import oneflow as flow\n"
        "from projects.MAE.modeling.native_operators import linear\n"
        "from projects.MAE.utils import native\n"
        "assert native.load()\n"
        "weight = flow.ones(5, 4, requires_grad=True)\n"
        "linear(flow.ones(3, 5), weight)\n"
    )
    # What is left over is taken down after Python, and aborted.
    subprocess.run([sys.executable, "-c", code], check=True, cwd=ROOT)


def load_with(wish):
    """What loading with MAE_NATIVE=wish says, in a new process."""
    code = "from projects.MAE.utils import native; print(native.load())"
    env = dict(os.environ, MAE_NATIVE=wish)
    return subprocess.run(
        [sys.executable, "-c", code], env=env, cwd=ROOT, capture_output=True, text=True
    )


def test_the_switch(tmp_path):
    assert load_with("0").stdout.strip() == "None"
    assert load_with("1").stdout.strip() == native.load()
    missing = load_with(str(tmp_path / "none.so")).stderr
    assert "UserError" in missing and "MAE_NATIVE" in missing
    broken = tmp_path / "broken.so"
    broken.write_text("not a library")
    assert "can't be loaded" in load_with(str(broken)).stderr


def loaded_with(environment):
    """What multiplies matrices after loading in this environment, and the last line of errors."""
    code = "from projects.MAE.utils import native; native.load(); print(native.matrix_products())"
    done = subprocess.run(
        [sys.executable, "-c", code], env=environment, cwd=ROOT, capture_output=True, text=True
    )
    return done.stdout.strip(), done.stderr.strip().split("\n")[-1]


def test_the_choice_of_a_blas():
    assert loaded_with(with_blas("mkl"))[0] == "MKL"
    assert loaded_with(with_blas("openblas"))[0] == "OpenBLAS"
    assert loaded_with(dict(with_blas("openblas"), MAE_BLAS=""))[0] == "OpenBLAS"  # no MKL there
    assert loaded_with(dict(with_blas("mkl"), MAE_BLAS=""))[0] in ("MKL", "OpenBLAS")
    refused = [
        ("MAE_BLAS=atlas must be mkl or openblas", with_blas("atlas")),
        ("MAE_BLAS=atlas must be mkl or openblas", dict(with_blas("atlas"), MAE_NATIVE="0")),
        ("MAE_BLAS=mkl: MKL is not preloaded", dict(with_blas("openblas"), MAE_BLAS="mkl")),
        ("MAE_BLAS=openblas: only the native", dict(with_blas("openblas"), MAE_NATIVE="0")),
    ]
    for message, wrong in refused:
        assert message in loaded_with(wrong)[1]
