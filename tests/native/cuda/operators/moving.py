"""Reshaping, slices, choices and gathering."""
import numpy as np

from tests.native.cuda.operators.checks import case, check, normal, rng, tensor


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
