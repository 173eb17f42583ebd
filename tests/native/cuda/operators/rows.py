"""Softmax, sums, LayerNorm and sorting, row by row."""
import numpy as np

from tests.native.cuda.operators.checks import ULP16, case, check, normal, place, rng, tensor


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
    check("sum of nothing", flow.zeros(0, 5, device=place.device).sum(dim=0), np.zeros(5))
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
