"""Filling, casting and what is computed element by element."""
import math

import numpy as np

from tests.native.cuda.operators.checks import (
    ULP16,
    case,
    check,
    erf,
    normal,
    note,
    place,
    slope,
    tensor,
)


@case
def fill():
    import oneflow as flow

    check("zeros", flow.zeros(3, 5, device=place.device), np.zeros((3, 5)))
    check("ones", flow.ones(3, 5, device=place.device), np.ones((3, 5)))
    for kind in (flow.float16, flow.float64, flow.int64, flow.int32, flow.int8, flow.uint8):
        full = flow.full((7,), 3, dtype=kind, device=place.device)
        check(f"full {kind}", full.to(flow.float32), np.full(7, 3))
    check("full half", flow.full((7,), 1.5, dtype=flow.float16, device=place.device), np.full(7, 1.5))
    x = tensor(normal(3, 4))
    check("ones_like", flow.ones_like(x), np.ones((3, 4)))
    check("zeros_like", flow.zeros_like(x), np.zeros((3, 4)))
    check("empty tensor", flow.zeros(0, 5, device=place.device) + 1, np.zeros((0, 5)))


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
