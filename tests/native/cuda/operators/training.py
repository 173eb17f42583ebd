"""Products, half precision, losses, optimizers, random numbers."""
import numpy as np

from tests.native.cuda.operators.checks import (
    ULP16,
    case,
    check,
    erf,
    normal,
    note,
    place,
    rng,
    tensor,
)
from tests.native.cuda.operators.elements import UNARY


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
    if place.device == "cuda":
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

    x = flow.empty(100000, device=place.device).uniform_(-1, 3).numpy()
    note("uniform", -1 <= x.min() and x.max() < 3 and abs(x.mean() - 1) < 0.02, f"{x.mean()}")
    y = flow.nn.init.normal_(flow.empty(100000, device=place.device), 2.0, 3.0).numpy()
    good = abs(y.mean() - 2) < 0.05 and abs(y.std() - 3) < 0.05
    note("normal", good, f"{y.mean()} {y.std()}")
    note("draws differ", len(np.unique(np.concatenate([x[:500], y[:500]]))) > 990, "")

    flow.manual_seed(3)
    check("rand on the CPU", flow.rand(3, device="cpu") * 0, np.zeros(3))
