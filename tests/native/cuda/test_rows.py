"""CUDA's LayerNorm, GELU, sums, AdamW of csrc/cuda/layers, emulated, against NumPy in float64."""
import ctypes
import math

import numpy as np
import pytest

from tests.support.emulated import CUDA, Kernels
from tests.support.needs import needs_cxx
from tests.native.cuda.test_attention import close, empty, to_bits, to_numbers

pytestmark = needs_cxx
# Of a result in that type, as a share of the norm.
ROUNDING = {"float": 2e-6, "half": 5e-4, "bfloat16": 4e-3}
PAIRS = [("float", "float"), ("float", "half"), ("float", "bfloat16"), ("half", "half")]
PAIRS += [("bfloat16", "bfloat16")]
erf = np.vectorize(math.erf)


class Compiled(dict):
    """{file of csrc/cuda/layers: its kernels}, each compiled when it is asked for first."""

    def __init__(self, folder):
        super().__init__()
        self.folder = folder

    def __missing__(self, name):
        self[name] = Kernels(CUDA / f"layers/{name}.cu", folder=self.folder)
        return self[name]


@pytest.fixture(scope="module")
def compiled(tmp_path_factory):
    return Compiled(tmp_path_factory.mktemp("rows"))


def numbers(*shape, seed=0):
    return np.random.default_rng(seed).standard_normal(shape)


def sum_partials(compiled, partial, split):
    """What sum_partials makes of partial [blocks, width]."""
    blocks, width = partial.shape
    first, second = np.full(split, np.nan, "f"), np.full(width - split, np.nan, "f")
    sizes = [np.int32(blocks), np.int32(width), np.int32(split)]
    compiled["sums"].launch(
        "sum_partials", -(-width // 32), (32, 32), *sizes, partial, first, second
    )
    return first, second


def steps(x, y, width):
    """The kernel for a width."""
    vector = 4 if x == "float" else 8
    if width % vector:
        return 0
    fitting = [
        s for s in ((4, 6, 8, 10) if x == "float" else (2, 3, 4, 5)) if s * 32 * vector >= width
    ]
    return fitting[0] if fitting else 0


@pytest.mark.soak
@pytest.mark.parametrize("rows, width", [(1, 8), (7, 33), (3, 512), (9, 768), (2, 1024), (3, 1288)])
@pytest.mark.parametrize("added", [False, True])
@pytest.mark.parametrize("x_type, y_type", PAIRS)
def test_layer_norm(compiled, x_type, y_type, added, rows, width):
    kernels = compiled["layer_norm_fused"]
    kernels.order(rows)
    x = to_bits(2 + 3 * numbers(rows, width), x_type)
    branch, bias = to_bits(numbers(rows, width, seed=1), y_type), to_bits(
        numbers(width, seed=2), "float"
    )
    gamma, beta = (to_bits(numbers(width, seed=s), "float") for s in (3, 4))
    y, total = empty((rows, width), y_type), empty((rows, width), x_type)
    mean, inv_std = np.full((2, rows), np.nan, "f")
    name = f"{x_type}_{y_type}_{steps(x_type, y_type, width)}"
    sizes = [np.int64(rows), np.int32(width)]
    more = [branch, bias, total] if added else [None, None, None]
    kernels.launch(
        f"layer_norm_{name}",
        2,
        (32, 4),
        *sizes,
        np.float32(1e-6),
        x,
        *more,
        gamma,
        beta,
        y,
        mean,
        inv_std,
    )
    given = to_numbers(x, x_type)
    if added:
        given = given + to_numbers(branch, y_type) + bias
        close(to_numbers(total, x_type), given, ROUNDING[x_type])
    m, r = given.mean(1), 1 / np.sqrt(given.var(1) + 1e-6)
    z = (given - m[:, None]) * r[:, None]
    tolerance = ROUNDING[y_type] + (ROUNDING[x_type] if added else 0)
    close(to_numbers(y, y_type), z * gamma + beta, tolerance)
    close(mean, m, ROUNDING[x_type])
    close(inv_std, r, ROUNDING[x_type])

    if added:
        return
    dy, add = to_bits(numbers(rows, width, seed=5), y_type), to_bits(
        numbers(rows, width, seed=6), x_type
    )
    for residual in (None, add):
        dx, partial = empty((rows, width), x_type), np.zeros((2, 2 * width), "f")
        kernels.launch(
            f"layer_norm_grad_{name}",
            2,
            (32, 4),
            *sizes,
            dy,
            x,
            mean,
            inv_std,
            gamma,
            residual,
            dx,
            partial,
            shared=8 * width,
        )
        d = to_numbers(dy, y_type)
        h = d * gamma
        expected = r[:, None] * (h - h.mean(1, keepdims=True) - z * (h * z).mean(1, keepdims=True))
        if residual is not None:
            expected = expected + to_numbers(add, x_type)
        close(to_numbers(dx, x_type), expected, ROUNDING[x_type] * 2)
        dgamma, dbeta = sum_partials(compiled, partial, width)
        close(dgamma, (d * z).sum(0), 5e-6)
        close(dbeta, d.sum(0), 5e-6)


@pytest.mark.soak
@pytest.mark.parametrize("rows, width", [(1, 8), (19, 264), (40, 520), (3, 1024)])
@pytest.mark.parametrize("name", ["float", "half", "bfloat16"])
def test_gelu(compiled, name, rows, width):
    kernels = compiled["gelu"]
    kernels.order(width)
    grid = (-(-width // (128 if name == "float" else 256)), 2)
    x, bias = to_bits(2 * numbers(rows, width), name), to_bits(numbers(width, seed=1), "float")
    sizes = [np.int64(rows), np.int32(width)]
    y, total = empty((rows, width), name), empty((rows, width), name)
    kernels.launch(f"gelu_{name}", grid, (32, 8), *sizes, x, None, None, y)
    given = to_numbers(x, name)
    close(to_numbers(y, name), given * (1 + erf(given / 2**0.5)) / 2, ROUNDING[name])
    kernels.launch(f"gelu_{name}", grid, (32, 8), *sizes, x, bias, total, y)
    close(to_numbers(total, name), given + bias, ROUNDING[name])
    given = to_numbers(total, name)
    activated, phi = given * (1 + erf(given / 2**0.5)) / 2, np.exp(-given * given / 2) / np.sqrt(
        2 * np.pi
    )
    close(to_numbers(y, name), activated, ROUNDING[name])
    dy = to_bits(numbers(rows, width, seed=2), name)
    expected = to_numbers(dy, name) * ((1 + erf(given / 2**0.5)) / 2 + given * phi)
    dx, again, partial = dy.copy(), empty((rows, width), name), np.full((2, width), np.nan, "f")
    kernels.launch(f"gelu_grad_{name}", grid, (32, 8), *sizes, total, dx, dx, again, partial)
    close(to_numbers(dx, name), expected, ROUNDING[name])
    np.testing.assert_array_equal(again, y)
    close(sum_partials(compiled, partial, width)[0], expected.sum(0), 5e-6)


@pytest.mark.soak
def test_gelu_in_the_tails(compiled):
    x = np.linspace(-12, 12, 2048)
    for name, tolerance in ("half", 3e-7), ("float", 3e-7):
        y = empty((1, 2048), name)
        sizes = [np.int64(1), np.int32(2048)]
        compiled["gelu"].launch(
            f"gelu_{name}", (16, 1), (32, 8), *sizes, to_bits(x, name), None, None, y
        )
        given = to_numbers(to_bits(x, name), name)
        expected = given * np.vectorize(math.erfc)(-given / 2**0.5) / 2
        error = np.abs(to_numbers(y, name)[0] - expected)
        assert (error <= tolerance + np.abs(expected) * ROUNDING[name]).all()


@pytest.mark.parametrize("rows, width", [(0, 8), (1, 8), (100, 264), (5, 1032)])
@pytest.mark.parametrize("name", ["float", "half", "bfloat16"])
def test_column_sums(compiled, name, rows, width):
    x, partial = to_bits(numbers(rows, width), name), np.full((3, width), np.nan, "f")
    grid = (-(-width // (128 if name == "float" else 256)), 3)
    compiled["sums"].launch(
        f"column_sums_{name}", grid, (32, 8), np.int64(rows), np.int32(width), x, partial
    )
    close(sum_partials(compiled, partial, width)[0], to_numbers(x, name).sum(0), 2e-6)


class Tensor(ctypes.Structure):
    _fields_ = [(n, ctypes.c_void_p) for n in ("model", "m", "v", "gradient", "copy")]
    _fields_ += [("size", ctypes.c_int64), ("rate", ctypes.c_float), ("decay", ctypes.c_float)]
    _fields_ += [("gradient_kind", ctypes.c_int), ("copy_kind", ctypes.c_int)]


class Settings(ctypes.Structure):
    _fields_ = [(n, ctypes.c_float) for n in ("beta1", "beta2", "epsilon", "scale", "l1", "l2")]


KINDS = ["float", "half", "bfloat16"]


class Parameters:
    """Tensors of several sizes and kinds for AdamW, and the tables that the kernel reads."""

    def __init__(self):
        self.arrays, self.table, chunks = [], (Tensor * 6)(), []
        for i, size in enumerate([1, 3, 4, 1000, 16384, 40001]):
            model, m, v = (to_bits(numbers(size, seed=10 * i + k), "float") for k in range(3))
            gradient = to_bits(numbers(size, seed=10 * i + 3), KINDS[i % 3])
            copy = None if i % 2 else empty(size, KINDS[1 + i // 2 % 2])
            arrays = [model, m, np.abs(v), gradient, copy]
            self.arrays.append(arrays)
            pointers = [None if a is None else a.ctypes.data for a in arrays]
            self.table[i] = Tensor(*pointers, size, 1 + i, 0.1 * i, i % 3, 1 + i // 2 % 2)
            chunks += [(i, k) for k in range(-(-size // 16384))]
        self.chunks = np.array(chunks, np.int32)

    def step(self, kernels, settings, *scalars):
        table = np.frombuffer(self.table, np.uint8).copy()
        kernels.launch("adamw", len(self.chunks), 64, table, self.chunks, settings, *scalars)


def scalar(value, kind="f"):
    return np.array([value], kind)


@pytest.mark.soak
@pytest.mark.parametrize("l1, l2", [(0, 0), (0.1, 0.2)])
def test_adamw(compiled, l1, l2):
    parameters, before = Parameters(), Parameters()
    settings = Settings(0.9, 0.95, 1e-8, 0.5, l1, l2)
    scalars = [scalar(0.01), scalar(0.25), scalar(0.1), scalar(0.05)]
    parameters.step(compiled["adamw"], settings, *scalars, scalar(0, np.int64))
    for i, (old, new) in enumerate(zip(before.arrays, parameters.arrays)):
        w, m, v = (a.astype(np.float64) for a in old[:3])
        g = to_numbers(old[3], KINDS[i % 3]) * 0.125 + l1 * np.where(w >= 0, 1, -1) + l2 * w
        m, v = 0.9 * m + 0.1 * g, 0.95 * v + 0.05 * g * g
        rate = 0.01 * (1 + i)
        w = w - rate / 0.1 * m / (np.sqrt(v / 0.05) + 1e-8) - rate * 0.1 * i * w
        for expected, array in zip((w, m, v), new):
            close(array, expected, 1e-6)
        if new[4] is not None:
            name = KINDS[1 + i // 2 % 2]
            np.testing.assert_array_equal(new[4], to_bits(new[0], name))


@pytest.mark.soak
def test_adamw_skips(compiled):
    parameters, before = Parameters(), Parameters()
    settings = Settings(0.9, 0.95, 1e-8, 1, 0, 0)
    nothing = [None] * 4
    parameters.step(compiled["adamw"], settings, *nothing, scalar(1, np.int64))
    for old, new in zip(before.arrays, parameters.arrays):
        for a, b in zip(old[:4], new):
            np.testing.assert_array_equal(a, b)
