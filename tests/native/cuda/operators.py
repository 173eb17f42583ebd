"""Single operators of OneFlow against NumPy, where the kernels of csrc/cuda stand in for its own.

    python -m tests.native.cuda.operators cuda [NAME ...]              on a GPU
    python -m tests.native.cuda.operators emulated:LIBRARY [NAME ...]  on this CPU

Prints a line for each wrong result and a last line with the counts; the status is 1 where one was
wrong. `check` gathers what differs instead of stopping: a GPU machine is at hand for minutes.
"""
import math
import os
import sys
import traceback

import numpy as np

ULP16 = 2e-3  # of half precision's numbers around 1, twice

cases = {}
results = []
device = "cpu"
rng = np.random.default_rng(5)
erf = np.vectorize(math.erf, otypes=["f8"])


def case(function):
    cases[function.__name__] = function
    return function


def normal(*shape):
    return rng.standard_normal(shape).astype(np.float32)


def tensor(array, grad=False):
    import oneflow as flow

    return flow.from_numpy(np.ascontiguousarray(array)).to(device).requires_grad_(grad)


def check(name, found, wanted, tolerance=2e-5):
    """Note how far a result lies from what is wanted, relative to 1 + |wanted|."""
    found = np.asarray(found if isinstance(found, np.ndarray) else found.numpy())
    wanted = np.asarray(wanted)
    if found.shape != wanted.shape:
        return note(name, False, f"shape {found.shape}, not {wanted.shape}")
    error = np.abs(found.astype("f8") - wanted.astype("f8")) / (1 + np.abs(wanted.astype("f8")))
    worst = float(error.max()) if error.size else 0.0
    note(name, worst <= tolerance, f"{worst:.2e} {found.dtype}")


def note(name, good, text):
    results.append((name, good))
    if not good:
        print(f"  WRONG {name}: {text}", flush=True)


def slope(function, x, step=1e-4):
    """The derivative of an elementwise function, in float64."""
    x = x.astype("f8")
    return (function(x + step) - function(x - step)) / (2 * step)


# --- filling, casting ----------------------------------------------------------------------------


@case
def fill():
    import oneflow as flow

    check("zeros", flow.zeros(3, 5, device=device), np.zeros((3, 5)))
    check("ones", flow.ones(3, 5, device=device), np.ones((3, 5)))
    for kind in (flow.float16, flow.float64, flow.int64, flow.int32, flow.int8, flow.uint8):
        full = flow.full((7,), 3, dtype=kind, device=device)
        check(f"full {kind}", full.to(flow.float32), np.full(7, 3))
    check("full half", flow.full((7,), 1.5, dtype=flow.float16, device=device), np.full(7, 1.5))
    x = tensor(normal(3, 4))
    check("ones_like", flow.ones_like(x), np.ones((3, 4)))
    check("zeros_like", flow.zeros_like(x), np.zeros((3, 4)))
    check("empty tensor", flow.zeros(0, 5, device=device) + 1, np.zeros((0, 5)))


@case
def cast():
    import oneflow as flow

    x = normal(33) * 5
    kinds = {
        flow.float16: "f2", flow.int32: "i4", flow.int64: "i8", flow.float64: "f8",
        flow.bool: "?", flow.int8: "i1",
    }  # fmt: skip
    for kind, name in kinds.items():
        check(f"float -> {name}", tensor(x).to(kind), x.astype(name))
        y = (x * 3).astype(name)
        check(f"{name} -> float", tensor(y).to(flow.float32), y.astype("f4"))
    x = normal(4, 8)
    check("packs -> half", tensor(x).to(flow.float16), x.astype("f2"))
    check("packs of half", tensor(x.astype("f2")).to(flow.float32), x.astype("f2"))
    check("packs of bfloat16", tensor(x).to(flow.bfloat16).to(flow.float32), x, 4e-3)
    check("bool of a fraction", tensor(np.array([0.4, 0, -0.2], "f4")).to(flow.bool), [1, 0, 1])
    check("bfloat16", tensor(x).to(flow.bfloat16).to(flow.float32), x, 4e-3)
    rounded = np.array([1 + 2**-11, 1 + 3 * 2**-11, 65519, 65520, 2**-25, 2**-24, 1e-30], "f4")
    with np.errstate(over="ignore"):
        wanted = rounded.astype("f2")
    found = tensor(rounded).to(flow.float16).numpy()
    note("half rounds to even", np.array_equal(found, wanted), f"{found} {wanted}")


# --- element by element --------------------------------------------------------------------------


@case
def arithmetic():
    import oneflow as flow

    a, b = normal(4, 5, 6), normal(4, 5, 6)
    column, row = normal(4, 5, 1), normal(6)
    functions = {
        "add": lambda p, q: p + q, "sub": lambda p, q: p - q, "mul": lambda p, q: p * q,
    }  # fmt: skip
    for name, f in functions.items():
        check(name, f(tensor(a), tensor(b)), f(a, b))
        check(f"{name} column", f(tensor(a), tensor(column)), f(a, column))
        check(f"{name} row", f(tensor(a), tensor(row)), f(a, row))
        check(f"{name} row first", f(tensor(row), tensor(a)), f(row, a))
        check(f"{name} scalar", f(tensor(a), 0.3), f(a, np.float32(0.3)))
        check(f"{name} scalar first", f(0.3, tensor(a)), f(np.float32(0.3), a))
    check("div", tensor(a) / tensor(b * b + 1), a / (b * b + 1))
    check("div column", tensor(a) / tensor(column * column + 1), a / (column * column + 1))
    check("div scalar", tensor(a) / 7, a / 7)
    check("scalar div", 2 / tensor(a * a + 1), 2 / (a * a + 1))
    check("both repeat", tensor(normal(4, 1, 6) * 0 + 2) * tensor(column), 2 * column.repeat(6, 2))
    check("pow", tensor(a * a) ** 1.5, (a * a).astype("f8") ** 1.5)
    check("fmod", flow.fmod(tensor(a), 0.7), np.fmod(a, np.float32(0.7)), 1e-4)
    check("maximum", flow.maximum(tensor(a), tensor(b)), np.maximum(a, b))
    check("minimum", flow.minimum(tensor(a), tensor(b)), np.minimum(a, b))
    check("add_n", flow._C.add([tensor(v) for v in (a, b, a, b, a)]), 3 * a + 2 * b)
    many = [normal(7, 3) for _ in range(35)]
    check("add_n of 35", flow._C.add([tensor(v) for v in many]), np.sum(many, axis=0))
    for shape in ((4, 5, 6), (4, 5, 1), (6,), (1, 1)):
        x, y = tensor(a, True), tensor(normal(*shape) ** 2 + 1, True)
        (x / y).sum().backward()
        d = y.numpy().astype("f8")
        full = -a / d**2
        missing = tuple(range(3 - len(shape)))
        ones = tuple(i for i, n in enumerate(shape, 3 - len(shape)) if n == 1)
        wanted = full.sum(missing + ones, keepdims=True).reshape(shape)
        check(f"div gradient {shape}", y.grad, wanted, 5e-5)
    for kind in ("f4", "f2"):  # in packs of 16 bytes, and beside them
        p, q, row = (normal(*shape).astype(kind) for shape in ((3, 5, 16), (3, 5, 16), (16,)))
        column, exact = normal(3, 5, 1).astype(kind), 2e-5 if kind == "f4" else ULP16
        for name, other in (("pair", q), ("row", row), ("column", column), ("middle", q[:, :1])):
            wanted = p.astype("f8") * other.astype("f8")
            check(f"packs {kind} {name}", tensor(p) * tensor(other), wanted, exact)
            check(f"packs {kind} {name} first", tensor(other) * tensor(p), wanted, exact)
        check(f"packs {kind} scalar", tensor(p) - 1.5, p.astype("f8") - 1.5, exact)
        wanted = 2 * p.astype("f8") + q
        check(f"packs {kind} sum", flow._C.add([tensor(v) for v in (p, q, p)]), wanted, exact)
        x = tensor(p, True)
        flow._C.gelu(x).sum().backward()
        wanted = slope(UNARY["gelu"], p)
        check(f"packs {kind} gelu gradient", x.grad, wanted, max(exact, 1e-4))
        check(f"packs {kind} gelu", flow._C.gelu(x), UNARY["gelu"](p.astype("f8")), exact)
    i = np.arange(-6, 6)
    check("int64", tensor(i) * 3 + 1, i * 3 + 1)
    check("int64 // 5", tensor(np.abs(i)) // 5, np.abs(i) // 5)
    check("int32", tensor(i.astype("i4")) * 3 - 1, i * 3 - 1)
    huge = np.ones((1 << 21) + 3, "f4")
    check("more than a grid", (tensor(huge) * 2)[-5:] + 0, np.full(5, 2.0))


@case
def comparisons():
    import oneflow as flow

    a, b = normal(4, 5, 6), normal(4, 5, 6)
    i = np.arange(-6, 6)
    check("gt", tensor(a) > tensor(b), a > b)
    check("lt row", tensor(a) < tensor(b[0, 0]), a < b[0, 0])
    check("ge scalar", tensor(i) >= 2, i >= 2)
    check("le scalar", tensor(i) <= 2, i <= 2)
    check("eq", tensor(i) == 2, i == 2)
    check("ne", tensor(i) != tensor(i[::-1].copy()), i != i[::-1])
    check("and", flow.logical_and(tensor(i > 1), tensor(i < 4)), (i > 1) & (i < 4))
    check("or", flow.logical_or(tensor(i > 1), tensor(i < -4)), (i > 1) | (i < -4))
    check("not", flow.logical_not(tensor(np.array([1, 0, 2], "f4"))), [False, True, False])
    odd = np.array([1, np.nan, np.inf, -np.inf], "f4")
    check("isnan", flow.isnan(tensor(odd)), np.isnan(odd))
    check("isinf", flow.isinf(tensor(odd)), np.isinf(odd))


UNARY = {
    "relu": lambda v: np.maximum(v, 0), "tanh": np.tanh, "exp": np.exp, "log": np.log,
    "sqrt": np.sqrt, "rsqrt": lambda v: 1 / np.sqrt(v), "square": np.square,
    "negative": np.negative, "abs": np.abs, "sigmoid": lambda v: 1 / (1 + np.exp(-v)), "erf": erf,
    "erfc": lambda v: 1 - erf(v), "floor": np.floor, "ceil": np.ceil, "round": np.round,
    "sign": np.sign, "reciprocal": lambda v: 1 / v, "sin": np.sin, "cos": np.cos,
    "expm1": np.expm1, "log1p": np.log1p, "log2": np.log2, "log10": np.log10,
    "silu": lambda v: v / (1 + np.exp(-v)),
    "gelu": lambda v: 0.5 * v * (1 + erf(v / 2**0.5)),
}  # fmt: skip


@case
def unary():
    import oneflow as flow

    values = np.abs(normal(7, 9)) + 0.1
    for name, f in UNARY.items():
        function = getattr(flow, name, None) or getattr(flow._C, name)
        x = tensor(values, True)
        y = function(x)
        check(name, y, f(values.astype("f8")))
        if name in ("floor", "ceil", "round", "sign"):
            continue
        y.sum().backward()
        wanted = slope(f, values)
        check(f"{name} gradient", x.grad, wanted, 1e-4)
    check("silu of negatives", flow.silu(tensor(-values)), UNARY["silu"](-values.astype("f8")))
    check("abs of int64", flow.abs(tensor(np.array([-3, 4]))), [3, 4])


@case
def gelu():
    import oneflow as flow

    a = normal(31, 17)
    wide = a.astype("f8")
    x = tensor(a, True)
    y = flow._C.gelu(x)
    check("gelu", y, UNARY["gelu"](wide))
    y.sum().backward()
    density = np.exp(-0.5 * wide**2) / math.sqrt(2 * math.pi)
    check("gelu gradient", x.grad, 0.5 * (1 + erf(wide / 2**0.5)) + wide * density)


# --- rows ----------------------------------------------------------------------------------------


@case
def softmax():
    import oneflow as flow

    for shape in ((3, 4, 17), (5, 300), (2, 2, 5, 1000), (3, 2500), (4, 1)):
        a, d = normal(*shape), normal(*shape)
        p = np.exp(a.astype("f8") - a.max(-1, keepdims=True))
        p /= p.sum(-1, keepdims=True)
        x = tensor(a, True)
        y = flow.softmax(x, dim=-1)
        check(f"softmax {shape}", y, p)
        y.backward(tensor(d))
        check(f"softmax gradient {shape}", x.grad, p * (d - (d * p).sum(-1, keepdims=True)))
        x = tensor(a, True)
        y = flow.log_softmax(x, dim=-1)
        check(f"log_softmax {shape}", y, np.log(p), 1e-4)
        y.backward(tensor(d))
        check(f"log_softmax gradient {shape}", x.grad, d - p * d.sum(-1, keepdims=True), 1e-4)


@case
def reduce():
    import oneflow as flow

    a = normal(4, 5, 6, 7)
    wide = a.astype("f8")
    x = tensor(a, True)
    for axes in ((0,), (3,), (0, 1), (2, 3), (1, 2), (0, 2), (0, 3), (1, 3), (0, 1, 2, 3)):
        check(f"sum {axes}", x.sum(dim=axes), wide.sum(axis=axes))
    check("mean", x.mean(dim=-1, keepdim=True), wide.mean(-1, keepdims=True))
    check("mean of all", x.mean(), wide.mean())
    x.mean(dim=-1).sum().backward()
    check("mean gradient", x.grad, np.full_like(a, 1 / 7))
    check("max", flow._C.reduce_max(tensor(a), axis=[-1], keepdim=False), a.max(-1))
    check("min", flow._C.reduce_min(tensor(a), axis=[0], keepdim=False), a.min(0))
    i = np.arange(24).reshape(4, 6)
    check("sum int64", tensor(i).sum(dim=1), i.sum(1))
    half = a.astype("f2")
    check("sum half", tensor(half).sum(dim=-1), half.astype("f8").sum(-1), ULP16)
    check("sum float64", tensor(wide).sum(dim=1), wide.sum(1), 1e-12)
    long = normal(3, 70000)
    check("sum of long rows", tensor(long).sum(dim=1), long.astype("f8").sum(1))
    tall = normal(30000, 40)
    check("sum of tall columns", tensor(tall).sum(dim=0), tall.astype("f8").sum(0))
    check("sum of nothing", flow.zeros(0, 5, device=device).sum(dim=0), np.zeros(5))
    w = tensor(normal(7), True)
    (tensor(a) * w).sum().backward()
    check("sum like a row", w.grad, wide.sum((0, 1, 2)))
    c = tensor(normal(4, 5, 6, 1), True)
    (tensor(a) * c).sum().backward()
    check("sum like a column", c.grad, wide.sum(-1, keepdims=True))


@case
def layer_norm():
    import oneflow as flow

    for shape in ((6, 5, 48), (3, 768), (2, 1500), (700, 32)):
        a, gamma, beta, d = normal(*shape), normal(shape[-1]), normal(shape[-1]), normal(*shape)
        wide, axis = a.astype("f8"), len(shape) - 1
        mean = wide.mean(-1, keepdims=True)
        inverse = 1 / np.sqrt(wide.var(-1, keepdims=True) + 1e-6)
        h = (wide - mean) * inverse
        x, w, z = tensor(a, True), tensor(gamma, True), tensor(beta, True)
        begin = dict(begin_norm_axis=axis, begin_params_axis=axis)
        y = flow._C.layer_norm_affine(x, w, z, **begin, epsilon=1e-6)
        check(f"layer_norm {shape}", y, h * gamma + beta)
        y.backward(tensor(d))
        t = d * gamma
        wanted = inverse * (
            t - t.mean(-1, keepdims=True) - h * (t * h).mean(-1, keepdims=True)
        )
        check(f"layer_norm dx {shape}", x.grad, wanted, 5e-5)
        axes = tuple(range(axis))
        check(f"layer_norm dgamma {shape}", w.grad, (d * h).sum(axes), 5e-5)
        check(f"layer_norm dbeta {shape}", z.grad, d.astype("f8").sum(axes), 5e-5)
        x = tensor(a)
        plain = flow._C.layer_norm(x, begin_norm_axis=axis, begin_params_axis=axis, epsilon=1e-6)
        check(f"layer_norm without parameters {shape}", plain, h)


@case
def sort():
    import oneflow as flow

    a = rng.random((5, 196), dtype=np.float32)
    order = np.argsort(a, 1)
    check("argsort", flow.argsort(tensor(a), dim=1), order)
    check("argsort int64", flow.argsort(tensor(order), dim=1), np.argsort(order, 1))
    check("argsort int32", flow.argsort(tensor(order.astype("i4")), dim=1), np.argsort(order, 1))
    check("descending", flow.argsort(tensor(a), dim=1, descending=True), np.argsort(-a, 1))
    ties = np.array([[1, 0, 1, 0, 1]], "f4")
    check("equal ones keep their order", flow.argsort(tensor(ties), dim=1), [[1, 3, 0, 2, 4]])


# --- moving --------------------------------------------------------------------------------------


@case
def moving():
    import oneflow as flow

    a = normal(4, 6, 8, 5)
    x = tensor(a)
    check("permute", x.permute(0, 2, 1, 3).contiguous() + 0, a.transpose(0, 2, 1, 3))
    check("permute all", x.permute(3, 2, 1, 0) * 1, a.transpose(3, 2, 1, 0))
    check("transpose", x.transpose(1, 3) * 1, a.swapaxes(1, 3))
    for kind in ("f2", "f8", "i8", "i1", "?"):
        b = (normal(4, 6, 8, 4) * 9).astype(kind)
        moved = tensor(b).permute(0, 2, 1, 3).contiguous()
        check(f"permute {kind}", moved, b.transpose(0, 2, 1, 3))
    x = tensor(a, True)
    y = x.permute(2, 0, 3, 1) * 1
    d = normal(*y.shape)
    y.backward(tensor(d))
    check("permute gradient", x.grad, d.transpose(1, 3, 0, 2))
    check("reshape", tensor(a).reshape(24, 40) + 0, a.reshape(24, 40))
    pad = flow.nn.functional.pad(tensor(a), (1, 2, 0, 3))
    check("pad", pad, np.pad(a, ((0, 0), (0, 0), (0, 3), (1, 2))))
    c = normal(4, 1, 5)
    check("expand", tensor(c).expand(4, 3, 5) + 0, np.broadcast_to(c, (4, 3, 5)))
    check("tile", flow.tile(tensor(c), (1, 2, 1)), np.tile(c, (1, 2, 1)))
    p, q = tensor(a, True), tensor(normal(4, 2, 8, 5), True)
    y = flow.cat([p, q], dim=1)
    check("cat", y, np.concatenate([a, q.numpy()], 1))
    d = normal(*y.shape)
    y.backward(tensor(d))
    check("cat gradient", p.grad, d[:, :6])
    check("cat gradient of the second", q.grad, d[:, 6:])
    parts = [normal(3, n) for n in (2, 1, 4)]
    check("cat of three", flow.cat([tensor(v) for v in parts], dim=1), np.concatenate(parts, 1))
    check("stack", flow.stack([tensor(c), tensor(c)], dim=1), np.stack([c, c], 1))
    for i, part in enumerate(flow.chunk(tensor(a), 2, dim=2)):
        check(f"chunk {i}", part * 1, a[:, :, 4 * i : 4 * i + 4])


@case
def slices():
    import oneflow as flow

    a = normal(4, 6, 8, 5)
    index = (slice(None), slice(1, 5), slice(None, None, 2))
    x = tensor(a, True)
    y = x[index] * 1
    check("slice", y, a[index])
    y.sum().backward()
    wanted = np.zeros_like(a)
    wanted[index] = 1
    check("slice gradient", x.grad, wanted)
    check("slice from the end", tensor(a)[:, -3:-1] * 1, a[:, -3:-1])
    check("one and the rest", tensor(a)[0, 1:] * 1, a[0, 1:])
    half = normal(4, 6, 8).astype("f2")
    check("slice of half", tensor(half)[:, 2:, 4:] * 1, half[:, 2:, 4:])
    x = tensor(a, True)
    y = flow.narrow(x, 1, 2, 3) * 1
    check("narrow", y, a[:, 2:5])
    y.sum().backward()
    wanted = np.zeros_like(a)
    wanted[:, 2:5] = 1
    check("narrow gradient", x.grad, wanted)
    x = tensor(a)
    x[:, 1:3] = 7.0
    wanted = a.copy()
    wanted[:, 1:3] = 7
    check("assigned slice", x, wanted)


@case
def where():
    import oneflow as flow

    a = normal(4, 6, 5)
    check("where", flow.where(tensor(a > 0), tensor(a), tensor(-a)), np.abs(a))
    check("where scalar", flow.where(tensor(a > 0), tensor(a), 0.0), np.maximum(a, 0))
    check("where scalar first", flow.where(tensor(a > 0), 0.0, tensor(a)), np.minimum(a, 0))
    row = normal(5)
    wanted = np.where(a > 0, a, row)
    check("where broadcast", flow.where(tensor(a > 0), tensor(a), tensor(row)), wanted)


@case
def gather():
    import oneflow as flow

    def sums(shape, index, d):
        y = np.zeros(shape, "f8")
        for n in range(index.shape[0]):
            for k in range(index.shape[1]):
                y[(n, index[n, k]) if len(shape) == 3 else index[n, k]] += d[n, k]
        return y

    a, d = normal(3, 9, 4), normal(3, 5, 4)
    index = np.stack([rng.integers(0, 9, 5) for _ in range(3)])
    x = tensor(a, True)
    y = flow._C.batch_gather(x, tensor(index))
    check("batch_gather", y, np.take_along_axis(a, index[:, :, None], 1))
    y.backward(tensor(d))
    check("batch_gather gradient", x.grad, sums(a.shape, index, d))
    x = tensor(a[0], True)
    y = flow._C.gather(x, tensor(index), axis=0)
    check("gather", y, a[0][index])
    y.backward(tensor(d))
    check("gather gradient", x.grad, sums(a[0].shape, index, d))
    y = flow._C.gather(tensor(a), tensor(index[0]), axis=1)
    check("gather along 1", y, a[:, index[0]])


# --- products, half, training --------------------------------------------------------------------


@case
def matmul():
    import oneflow as flow

    a, b, d = normal(4, 5, 6), normal(6, 7), normal(4, 5, 7)
    x, y = tensor(a, True), tensor(b, True)
    z = flow.matmul(x, y)
    check("broadcast matmul", z, a @ b, 1e-3)
    z.backward(tensor(d))
    check("matmul dx", x.grad, d @ b.T, 1e-3)
    check("matmul dw", y.grad, np.einsum("bij,bik->jk", a, d), 1e-3)
    a, b = normal(2, 3, 5, 6), normal(2, 3, 9, 6)
    z = flow.matmul(tensor(a), tensor(b), transpose_b=True, alpha=0.5)
    check("batch matmul", z, 0.5 * a @ b.swapaxes(2, 3), 1e-3)


@case
def half():
    import oneflow as flow

    a, b = normal(5, 16).astype("f2"), normal(5, 16).astype("f2")
    wide = a.astype("f8")
    x, y = tensor(a), tensor(b)
    check("half add", x + y, a + b, ULP16)
    check("half mul scalar", x * 0.3, wide * 0.3, ULP16)
    check("half gelu", flow._C.gelu(x), UNARY["gelu"](wide), ULP16)
    p = np.exp(wide)
    check("half softmax", flow.softmax(x, dim=-1), p / p.sum(-1, keepdims=True), ULP16)
    begin = dict(begin_norm_axis=1, begin_params_axis=1, epsilon=1e-6)
    ones, zeros = tensor(np.ones(16, "f2")), tensor(np.zeros(16, "f2"))
    wanted = (wide - wide.mean(-1, keepdims=True)) / wide.std(-1, keepdims=True)
    check("half layer_norm", flow._C.layer_norm_affine(x, ones, zeros, **begin), wanted, 2 * ULP16)
    if device == "cuda":
        wanted = wide @ b.astype("f8").T
        check("half matmul", flow.matmul(x, tensor(b.T)).float(), wanted, 5e-3)
    check("half cat", flow.cat([x, y], dim=1), np.concatenate([a, b], 1))
    check("half sum", x.sum(dim=0), wide.sum(0), ULP16)
    check("half comparison", x > y, a > b)


@case
def losses():
    import oneflow as flow

    logits, labels = normal(9, 13), rng.integers(0, 13, 9)
    wide = logits.astype("f8")
    log_p = wide - np.log(np.exp(wide).sum(1, keepdims=True))
    for kind in ("i8", "i4"):
        x = tensor(logits, True)
        y = flow._C.sparse_softmax_cross_entropy(x, tensor(labels.astype(kind)))
        check(f"cross entropy {kind}", y, -log_p[np.arange(9), labels])
        y.sum().backward()
        wanted = np.exp(log_p)
        wanted[np.arange(9), labels] -= 1
        check(f"cross entropy gradient {kind}", x.grad, wanted)


@case
def negative_log_likelihood():
    import oneflow as flow

    logits, labels = normal(9, 13), rng.integers(0, 13, 9)
    labels[4] = -100
    wide, kept = logits.astype("f8"), labels >= 0
    log_p = wide - np.log(np.exp(wide).sum(1, keepdims=True))
    x = tensor(logits, True)
    y = flow.nn.CrossEntropyLoss()(x, tensor(labels))
    check("CrossEntropyLoss", y, -log_p[kept, labels[kept]].mean())
    y.backward()
    wanted = np.exp(log_p) * kept[:, None]
    wanted[kept, labels[kept]] -= 1
    check("CrossEntropyLoss gradient", x.grad, wanted / kept.sum())


@case
def optimizer():
    import oneflow as flow

    a, d = normal(50), normal(50)
    parameter = flow.nn.Parameter(tensor(a))
    adam = flow.optim.AdamW([parameter], lr=1e-2, betas=(0.9, 0.95), weight_decay=0.05)
    w, m, v = a.astype("f8"), 0, 0
    for step in range(1, 4):
        (parameter * tensor(d)).sum().backward()
        adam.step()
        adam.zero_grad()
        m, v = 0.9 * m + 0.1 * d, 0.95 * v + 0.05 * d.astype("f8") ** 2
        root = np.sqrt(v) / np.sqrt(1 - 0.95**step)
        w = w - 1e-2 / (1 - 0.9**step) * m / (root + 1e-8) - 1e-2 * 0.05 * w
    check("adamw", parameter.detach(), w)


@case
def clip():
    import oneflow as flow

    a = normal(5, 7)
    x = tensor(a, True)
    y = flow.clamp(x, -0.5, 0.7)
    check("clamp", y, np.clip(a, -0.5, 0.7))
    y.sum().backward()
    check("clamp gradient", x.grad, (a >= -0.5) & (a <= 0.7))
    check("clamp min", flow.clamp(tensor(a), min=0.1), np.maximum(a, 0.1))
    check("clamp max", flow.clamp(tensor(a), max=0.1), np.minimum(a, 0.1))
    i = np.arange(-6, 6)
    check("clamp int64", flow.clamp(tensor(i), -2, 3), np.clip(i, -2, 3))
    u = np.linspace(-0.999, 0.999, 41).astype("f4")
    check("erfinv", erf(flow.erfinv(tensor(u)).numpy().astype("f8")), u, 1e-6)


@case
def random_numbers():
    import oneflow as flow

    x = flow.empty(100000, device=device).uniform_(-1, 3).numpy()
    note("uniform", -1 <= x.min() and x.max() < 3 and abs(x.mean() - 1) < 0.02, f"{x.mean()}")
    y = flow.nn.init.normal_(flow.empty(100000, device=device), 2.0, 3.0).numpy()
    good = abs(y.mean() - 2) < 0.05 and abs(y.std() - 3) < 0.05
    note("normal", good, f"{y.mean()} {y.std()}")
    note("draws differ", len(np.unique(np.concatenate([x[:500], y[:500]]))) > 990, "")

    flow.manual_seed(3)
    check("rand on the CPU", flow.rand(3, device="cpu") * 0, np.zeros(3))


def prepare(where):
    """Load the kernels: "cuda", "emulated:LIBRARY", or "cpu" for OneFlow's own."""
    global device
    from projects.MAE.runtime import cuda_kernels

    kind, _, library = where.partition(":")
    device = "cuda" if kind == "cuda" else "cpu"
    if kind == "emulated":
        cuda_kernels.emulate(library, has_code="STRICT" not in os.environ)
    elif kind == "cuda":
        print("kernels:", cuda_kernels.load(), flush=True)


def run(names=()):
    """Run the cases, all by default; returns how many checks there were and how many went wrong."""
    for name in names or cases:
        try:
            cases[name]()
        except Exception as error:
            last = traceback.extract_tb(error.__traceback__)
            own = [frame.lineno for frame in last if frame.filename == __file__]
            note(name, False, f"line {own[-1]}: {type(error).__name__} {str(error)[:300]}")
    return len(results), sum(not good for _, good in results)


if __name__ == "__main__":
    prepare(sys.argv[1])
    count, wrong = run(sys.argv[2:])
    print(f"operators: {count - wrong} of {count} right", flush=True)
    os._exit(wrong != 0)
