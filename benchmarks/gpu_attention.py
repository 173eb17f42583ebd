"""Attention of csrc/cuda/layers on one GPU beside PyTorch's: is it right, and how fast?"""

from benchmarks.gpu_timing import F, I, error, load, poisoned, table, timed, turn

SHAPES = [
    (256, 50, 12, 64),
    (256, 197, 16, 32),
    (128, 197, 12, 64),
    (128, 50, 16, 64),
    (64, 197, 16, 80),
]
# Threads a block may have, blocks a multiprocessor is to hold, groups of 16 columns in registers,
# rows a warp has.
FORWARD = [
    (128, 4, 4, 16),
    (256, 2, 4, 16),
    (256, 3, 2, 16),
    (128, 6, 2, 16),
    (448, 1, 4, 16),
    (128, 2, 4, 32),
    (256, 1, 2, 32),
    (256, 2, 2, 32),
]
BACKWARD = [
    (128, 3, 2, 16),
    (256, 1, 2, 16),
    (256, 2, 1, 16),
    (128, 4, 1, 16),
    (448, 1, 1, 16),
    (128, 2, 4, 16),
    (256, 1, 1, 32),
    (128, 2, 2, 32),
]


def round_up(n, to):
    return -(-n // to) * to


def attention_flags(forward, backward):
    names = [
        f"{way}_{what}"
        for way in ("FORWARD", "BACKWARD")
        for what in ("THREADS", "BLOCKS", "GROUPS", "ROWS")
    ]
    return [f"-D{n}={v}" for n, v in zip(names, (*forward, *backward))]


def attention_reference(qkv, dout):
    """out and dqkv in float64."""
    import torch

    x = qkv.double().requires_grad_()
    q, k, v = x.permute(3, 0, 2, 1, 4)
    p = (q @ k.transpose(-1, -2) * q.shape[-1] ** -0.5).softmax(-1)
    out = (p @ v).transpose(1, 2)
    return out.detach(), torch.autograd.grad(out, x, dout.double())[0]


class Inputs:
    """Three sets of inputs and places for results, of one shape and type."""

    def __init__(self, shape, dtype):
        import torch

        n, l, h, d = self.shape = shape
        torch.manual_seed(0)
        self.qkv = [torch.randn(n, l, h, 3, d, dtype=dtype, device="cuda") for _ in range(3)]
        self.dout = [torch.randn(n, l, h, d, dtype=dtype, device="cuda") for _ in range(3)]
        self.out = poisoned(n, l, h, d, dtype=dtype, count=3)
        self.lse, self.delta = (poisoned(n, h, l, dtype=torch.float32, count=3) for _ in range(2))
        self.dqkv = poisoned(n, l, h, 3, d, dtype=dtype, count=3)
        self.name = {"torch.float16": "half", "torch.bfloat16": "bfloat16"}.get(str(dtype), "float")
        self.few = 8  # samples that are compared
        self.expected = attention_reference(self.qkv[0][: self.few], self.dout[0][: self.few])

    def sets(self):
        """Of inputs and places for results."""
        return zip(self.qkv, self.dout, self.out, self.lse, self.delta, self.dqkv)

    def errors(self):
        return [error(a[: self.few], b) for a, b in zip((self.out[0], self.dqkv[0]), self.expected)]


def forward_calls(module, inputs, warps, chunk, rows):
    n, l, h, d = inputs.shape
    shared = 2 * (rows * warps * (d + 8) + chunk * (2 * d + 8))
    grid, name = n * h * -(-l // (rows * warps)), f"attention_forward_{inputs.name}_{d}"
    return [
        module.prepare(
            name, grid, 32 * warps, [I(h), I(l), I(chunk), F(d**-0.5), qkv, out, lse], shared
        )
        for qkv, _, out, lse, _, _ in inputs.sets()
    ]


def backward_calls(module, inputs, warps, groups, rows):
    n, l, h, d = inputs.shape
    pad = round_up(l, rows)
    shared = 2 * (pad * (4 * d + 16) + 16 * warps * (d + 8)) + 8 * (pad + 16 * groups)
    name = f"attention_backward_{inputs.name}_{d}"
    return [
        module.prepare(
            name, n * h, 32 * warps, [I(h), I(l), F(d**-0.5), qkv, out, dout, lse, dqkv], shared
        )
        for qkv, dout, out, lse, _, dqkv in inputs.sets()
    ]


def once_calls(module, inputs, block, groups, rows):
    n, l, h, d = inputs.shape
    pad = round_up(l, rows)
    shared = 2 * pad * (4 * d + 16 + block + 8) + 8 * (pad + block + 16 * groups)
    name = f"attention_backward_once_{inputs.name}_{d}"
    return [
        module.prepare(
            name,
            n * h,
            32 * (pad // rows),
            [I(h), I(l), I(block), F(d**-0.5), qkv, out, dout, lse, dqkv],
            shared,
        )
        for qkv, dout, out, lse, _, dqkv in inputs.sets()
    ]


def chunked_calls(module, inputs, warps, chunk, groups, rows):
    n, l, h, d = inputs.shape
    own = rows * warps
    end, grid = f"{inputs.name}_{d}", n * h * -(-l // own)
    first = 2 * (2 * own * (d + 8) + chunk * (2 * d + 8))
    second = 2 * (own * (2 * d + 8) + chunk * (2 * d + 16)) + 8 * (chunk + 16 * groups)
    calls = []
    for qkv, dout, out, lse, delta, dqkv in inputs.sets():
        begin = [I(h), I(l), I(chunk), F(d**-0.5), qkv]
        a = module.prepare(
            f"attention_backward_queries_{end}",
            grid,
            32 * warps,
            [*begin, out, dout, lse, delta, dqkv],
            first,
        )
        b = module.prepare(
            f"attention_backward_keys_{end}",
            grid,
            32 * warps,
            [*begin, dout, lse, delta, dqkv],
            second,
        )
        calls.append(lambda a=a, b=b: (a(), b()))
    return calls


def plain_calls(module, inputs, tile=64):
    n, l, h, d = inputs.shape
    end, grid, shared = (
        f"{inputs.name}_{d}",
        n * h * -(-l // tile),
        4 * tile * (4 * (d + 1) + tile + 1),
    )
    forward, backward = [], []
    for qkv, dout, out, lse, delta, dqkv in inputs.sets():
        begin = [I(h), I(l), F(d**-0.5), qkv]
        run = [
            module.prepare(f"attention_plain_{what}_{end}", grid, 256, [*begin, *rest], shared)
            for what, rest in [
                ("forward", [out, lse]),
                ("backward_queries", [out, dout, lse, delta, dqkv]),
                ("backward_keys", [dout, lse, delta, dqkv]),
            ]
        ]
        forward.append(run[0])
        backward.append(lambda run=run: (run[1](), run[2]()))
    return forward, backward


def torch_attention(inputs, plain):
    """Microseconds of PyTorch's forward pass, its backward pass to q, k, v and to qkv, errors."""
    import torch

    def attend(q, k, v):
        if plain:
            return ((q @ k.transpose(-1, -2) * q.shape[-1] ** -0.5).softmax(-1) @ v).transpose(1, 2)
        return torch.nn.functional.scaled_dot_product_attention(q, k, v).transpose(1, 2)

    def split(qkv):
        return qkv.permute(2, 0, 3, 1, 4).unbind(0)

    def backward(leaves, outs):
        return timed(
            [
                lambda o=o, x=x, g=g: grad(o, x, g, retain_graph=True)
                for o, x, g in zip(outs, leaves, inputs.dout)
            ]
        )

    # As timm has it: [N, L, 3, heads, size].
    grad, leaves = torch.autograd.grad, [x.transpose(2, 3).contiguous() for x in inputs.qkv]
    forward = timed([lambda x=x: attend(*split(x)) for x in leaves])
    parts = [[t.detach().requires_grad_() for t in split(x)] for x in leaves]
    first = backward(parts, [attend(*p) for p in parts])
    leaves = [x.requires_grad_() for x in leaves]
    outs = [attend(*split(x)) for x in leaves]
    second = backward(leaves, outs)
    found = outs[0], grad(outs[0], leaves[0], inputs.dout[0])[0].transpose(2, 3)
    e = [error(a[: inputs.few], b) for a, b in zip(found, inputs.expected)]
    return forward, first, second, *e


def attention():
    sizes = sorted({s[3] for s in SHAPES})
    pairs = [
        (FORWARD[i % len(FORWARD)], BACKWARD[i % len(BACKWARD)])
        for i in range(max(len(FORWARD), len(BACKWARD)))
    ]
    jobs = {
        (d, p): ("attention", (f"-DHEAD_SIZE={d}", *attention_flags(*p)))
        for d in sizes
        for p in pairs
    }
    plain = {d: ("attention_plain", (f"-DHEAD_SIZE={d}",)) for d in sizes}
    modules = load({**jobs, **plain})
    with turn():
        attention_tables(modules, pairs)


def attention_tables(modules, pairs):
    import torch

    rows = []
    for shape in SHAPES:
        for dtype in (torch.float16, torch.bfloat16) if shape[3] == 64 else (torch.float16,):
            rows.append(attention_row(modules, pairs, shape, dtype, full=dtype == torch.float16))
    table(
        "attention, us (TFLOP/s); e: relative error",
        [
            "shape",
            "type",
            "forward",
            "variant",
            "e",
            "backward",
            "variant",
            "e",
            "sdpa f",
            "b",
            "b qkv",
            "e f",
            "e b",
            "plain f",
            "b",
            "b qkv",
        ],
        rows,
    )
    rows = []
    for shape in SHAPES[:3]:
        inputs = Inputs((shape[0] // 4, *shape[1:]), torch.float32)
        forward, backward = plain_calls(modules[shape[3]], inputs)
        mine = timed(forward), timed(backward)
        e = inputs.errors()
        torch.backends.cuda.matmul.allow_tf32 = False
        theirs = torch_attention(inputs, plain=False), torch_attention(inputs, plain=True)
        rows.append(
            [
                inputs.shape,
                f"{mine[0]:.0f} {mine[1]:.0f}",
                f"{e[0]:.1e} {e[1]:.1e}",
                *(f"{t[0]:.0f} {t[2]:.0f}" for t in theirs),
            ]
        )
    table(
        "float32 attention without tensor cores, us, forward backward",
        ["shape", "here", "e", "sdpa", "plain"],
        rows,
    )


def variants(modules, pairs, inputs, which, tried):
    """(name, microseconds or None, calls) of every variant of a pass that fits."""
    n, l, h, d = inputs.shape
    for variant in tried:
        threads, _, groups, rows = variant
        module = modules.get((d, next(p for p in pairs if p[which] == variant)))
        if module is None:
            continue
        strips = -(-l // rows)
        for w in sorted({min(strips, 4), (strips + 1) // 2, min(strips, 8), strips}):
            if 32 * w > threads:
                continue
            if which == 0:
                runs = {
                    f"c{c}": forward_calls(module, inputs, w, c, rows)
                    for c in {round_up(l, 16), min(round_up(l, 16), 64)}
                }
            else:
                runs = {"whole": backward_calls(module, inputs, w, groups, rows)}
                if w == strips:
                    for b in {min(round_up(l, 16), b) for b in (32, 64, 112)}:
                        runs[f"once b{b}"] = once_calls(module, inputs, b, groups, rows)
                if threads == 256 and w == min(strips, 8):
                    chunk = min(64, round_up(l, 16))
                    runs["chunks"] = chunked_calls(module, inputs, w, chunk, groups, rows)
            for how, calls in runs.items():
                yield f"{variant} w{w} {how}", calls


def fastest(modules, pairs, inputs, which, tried, flops):
    found = []
    for name, calls in variants(modules, pairs, inputs, which, tried):
        for result in inputs.dqkv if which else inputs.out:
            result.fill_(float("nan"))
        try:
            us = timed(calls, 0.02)
        except RuntimeError as e:
            print(f"{inputs.shape} {name}: {e}")
            continue
        found.append((us, name.replace(" ", "", 3)))
        e = f", error {inputs.errors()[1]:.1e}" if which else ""
        way = "backward" if which else "forward"
        print(
            f"{inputs.shape} {inputs.name} {way} {name}: {us:.1f} us, "
            f"{flops / us:.0f} TFLOP/s{e}",
            flush=True,
        )
    return min(found)


def attention_row(modules, pairs, shape, dtype, full):
    inputs = Inputs(shape, dtype)
    n, l, h, d = shape
    flops, few = 4 * n * h * l * l * d / 1e6, None if full else 3
    best = fastest(modules, pairs, inputs, 0, FORWARD[:few], flops)
    back = fastest(modules, pairs, inputs, 1, BACKWARD[:few], 2.5 * flops)
    e = inputs.errors()
    sdpa, plain = torch_attention(inputs, plain=False), torch_attention(inputs, plain=True)
    return [
        ",".join(map(str, shape)),
        inputs.name,
        f"{best[0]:.0f} ({flops / best[0]:.0f})",
        best[1],
        f"{e[0]:.1e}",
        f"{back[0]:.0f} ({2.5 * flops / back[0]:.0f})",
        back[1],
        f"{e[1]:.1e}",
        *(f"{v:.0f}" for v in sdpa[:3]),
        *(f"{v:.1e}" for v in sdpa[3:]),
        *(f"{v:.0f}" for v in plain[:3]),
    ]
