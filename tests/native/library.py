"""What the tests of the native CPU kernels share."""
import numpy as np
import oneflow as flow
import pytest

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
