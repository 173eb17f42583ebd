"""The native CPU kernels of OneFlow's operators against float64 NumPy, for every class of shape."""
import numpy as np
import oneflow as flow
import pytest
from scipy.special import erf

from projects.MAE.modeling.one_operator import attention
from tests.native.library import close, normal_density, random, run, shapes

pytestmark = pytest.mark.usefixtures("native_kernels")


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
