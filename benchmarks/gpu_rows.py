"""LayerNorm and GELU of csrc/cuda/layers on one GPU beside PyTorch's: are they right, how fast?"""

from benchmarks.gpu_timing import F, I, L, best_of, error, load, poisoned, table, timed, turn


def rows():
    modules = {n: (n, ()) for n in ("gelu", "sums")}
    for x in ("float", "half"):
        modules[f"{x}_half"] = "layer_norm_fused", (
            f"-DX_TYPE={x}",
            "-DY_TYPE=half",
            f"-DX_IS_FLOAT={int(x == 'float')}",
        )
    modules = load(modules)
    with turn():
        row_tables(modules)


def row_tables(modules):
    import torch

    found = []
    for shape in [(12800, 768), (50432, 512), (25216, 768), (6400, 1024)]:
        for stream in (torch.float32, torch.float16):
            found += layer_norm_rows(modules, shape, stream)
    table(
        "LayerNorm, us (GB/s); y is half",
        ["shape", "x", "what", "best", "variant", "error", "torch"],
        found,
    )
    found = []
    for shape in [(12800, 3072), (50432, 2048)]:
        for dtype in (torch.float16, torch.bfloat16):
            found += gelu_rows(modules, shape, dtype)
    table("GELU, us (GB/s)", ["shape", "type", "what", "best", "variant", "error", "torch"], found)


def finish(modules, partial, first, second):
    blocks, width = partial.shape
    return modules["sums"].prepare(
        "sum_partials",
        -(-width // 32),
        (32, 32),
        [I(blocks), I(width), I(first.numel()), partial, first, second],
    )


def layer_norm_rows(modules, shape, stream):
    import torch

    torch.manual_seed(0)
    half, layer_norm = torch.float16, torch.nn.functional.layer_norm
    n, width = shape
    vector = 4 if stream == torch.float32 else 8
    steps = next(
        s for s in ((4, 6, 8, 10) if vector == 4 else (2, 3, 4, 5)) if s * 32 * vector >= width
    )
    kind = "float" if vector == 4 else "half"
    name, module = f"{kind}_half_{steps}", modules[f"{kind}_half"]
    x, add = (
        [torch.randn(n, width, device="cuda", dtype=stream) for _ in range(4)] for _ in range(2)
    )
    dy = [torch.randn(n, width, device="cuda", dtype=half) for _ in range(4)]
    y, dx = poisoned(n, width, dtype=half, count=4), poisoned(n, width, dtype=stream, count=4)
    gamma, beta = torch.randn(2, width, device="cuda")
    (stats,) = poisoned(2, n, dtype=torch.float32)
    (grads,) = poisoned(2, width, dtype=torch.float32)
    sizes, label = [L(n), I(width)], f"{shape} {stream}"
    forward = {}
    for warps in (4, 8):
        forward[f"{warps} warps"] = [
            module.prepare(
                f"layer_norm_{name}",
                -(-n // warps),
                (32, warps),
                [*sizes, F(1e-6), a, None, None, None, gamma, beta, b, stats[0], stats[1]],
            )
            for a, b in zip(x, y)
        ]
    size = n * width
    best = best_of(f"{label} forward", forward, size * (x[0].element_size() + 2))
    leaf = x[0].double().requires_grad_()
    g, b = (t.double().requires_grad_() for t in (gamma, beta))
    expected = layer_norm(leaf, (width,), g, b, 1e-6)
    theirs = timed(
        [
            lambda a=a: layer_norm(a, (width,), gamma.to(stream), beta.to(stream), 1e-6).half()
            for a in x
        ]
    )
    found = [[shape, kind, "forward", *best, f"{error(y[0], expected):.1e}", f"{theirs:.1f}"]]
    backward = {}
    for warps in (4, 8):
        for blocks in (132, 264, 528):
            (partial,) = poisoned(blocks, 2 * width, dtype=torch.float32)
            last = finish(modules, partial, grads[0], grads[1])
            calls = [
                module.prepare(
                    f"layer_norm_grad_{name}",
                    blocks,
                    (32, warps),
                    [*sizes, d, a, stats[0], stats[1], gamma, r, o, partial],
                    8 * width,
                )
                for d, a, r, o in zip(dy, x, add, dx)
            ]
            backward[f"{warps} warps {blocks} blocks"] = [
                lambda c=c, last=last: (c(), last()) for c in calls
            ]
    forward["8 warps"][0]()
    moved = size * (3 * x[0].element_size() + 2)
    best = best_of(f"{label} backward", backward, moved)
    forward["8 warps"][0]()
    list(backward.values())[0][0]()
    want = torch.autograd.grad(expected, (leaf, g, b), dy[0].double())
    e = [error(dx[0], want[0] + add[0]), error(grads[0], want[1]), error(grads[1], want[2])]
    leaves = [a.clone().requires_grad_() for a in x]
    w, v = (t.to(stream).requires_grad_() for t in (gamma, beta))
    outs = [layer_norm(a, (width,), w, v, 1e-6) for a in leaves]
    wide = [d.to(stream) for d in dy]
    theirs = timed(
        [
            lambda o=o, a=a, d=d, r=r: torch.autograd.grad(o, (a, w, v), d, retain_graph=True)[
                0
            ].add_(r)
            for o, a, d, r in zip(outs, leaves, wide, add)
        ]
    )
    found.append(
        [shape, kind, "grad + residual", *best, " ".join(f"{v:.0e}" for v in e), f"{theirs:.1f}"]
    )
    return found


def gelu_rows(modules, shape, dtype):
    import torch

    torch.manual_seed(0)
    n, width = shape
    kind = {"torch.float16": "half", "torch.bfloat16": "bfloat16"}[str(dtype)]
    gelu = torch.nn.functional.gelu
    x, dy = (
        [torch.randn(n, width, device="cuda", dtype=dtype) for _ in range(3)] for _ in range(2)
    )
    y, dx = (poisoned(n, width, dtype=dtype, count=3) for _ in range(2))
    (dbias,) = poisoned(width, dtype=torch.float32)
    sizes, columns, size = [L(n), I(width)], -(-width // 256), n * width
    forward, backward = {}, {}
    for down in (32, 128, 512, -(-n // 8)):
        forward[f"{down} down"] = [
            modules["gelu"].prepare(
                f"gelu_{kind}", (columns, down), (32, 8), [*sizes, a, None, None, b]
            )
            for a, b in zip(x, y)
        ]
    for down in (32, 64, 128, 256):
        (partial,) = poisoned(down, width, dtype=torch.float32)
        last = finish(modules, partial, dbias, None)
        for again in (False, True):
            calls = [
                modules["gelu"].prepare(
                    f"gelu_grad_{kind}",
                    (columns, down),
                    (32, 8),
                    [*sizes, a, d, o, b if again else None, partial],
                )
                for a, d, o, b in zip(x, dy, dx, y)
            ]
            backward[again, down] = [lambda c=c, last=last: (c(), last()) for c in calls]
    best = best_of(f"{shape} gelu", forward, 4 * size)
    leaf = x[0].double().requires_grad_()
    expected = gelu(leaf)
    theirs = timed([lambda a=a: gelu(a) for a in x])
    found = [[shape, kind, "forward", *best, f"{error(y[0], expected):.1e}", f"{theirs:.1f}"]]
    want = torch.autograd.grad(expected, leaf, dy[0].double())[0]
    theirs = timed(
        [lambda a=a, d=d: torch.ops.aten.gelu_backward(d, a).sum(0) for a, d in zip(x, dy)]
    )
    for again in (False, True):
        variants = {f"{down} down": calls for (a, down), calls in backward.items() if a == again}
        best = best_of(f"{shape} gelu grad {again}", variants, (8 if again else 6) * size)
        e = error(dx[0], want), error(dbias, want.sum(0))
        what = "grad, bias" + (", gelu again" if again else "")
        # The last call took the last set of inputs for dbias; take the first.
        list(variants.values())[0][0]()
        e = e[0], error(dbias, want.sum(0))
        found.append([shape, kind, what, *best, " ".join(f"{v:.0e}" for v in e), f"{theirs:.1f}"])
    return found
