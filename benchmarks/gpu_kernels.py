"""Every kernel of csrc/cuda/layers on one GPU: is it right, and how fast is it beside PyTorch's?

    python3 benchmarks/gpu_kernels.py [attention] [rows] [adamw] [products]

Needs PyTorch and NVRTC, no OneFlow. Each group is a process of its own; all compile at once and
have the GPU one after another, and after 145 s what is still running ends. The tables come last;
all that was measured, every variant, is in gpu_kernels.log, in $OUT if that is set. Times are
medians of batches of launches, inputs rotating so that the cache holds none.
"""

import contextlib
import ctypes
import fcntl
import os
import shutil
import statistics
import subprocess
import sys
import time
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))
from benchmarks.gpu_device import Module, compile_all, find_library  # noqa: E402

GROUPS = ["products", "adamw", "rows", "attention"]
LIMIT = 145  # seconds
TURN = "/tmp/gpu_kernels.lock"
F, I, L = ctypes.c_float, ctypes.c_int, ctypes.c_longlong


@contextlib.contextmanager
def turn():
    """The GPU to oneself, among the groups."""
    with open(TURN, "w") as file:
        fcntl.flock(file, fcntl.LOCK_EX)
        start = time.time()
        yield
        print(f"= (on the GPU for {time.time() - start:.0f} s)")


def load(jobs):
    """{key: Module} of {key: (file, flags)}, without those that can't be compiled."""
    start, codes = time.time(), compile_all(list(jobs.values()), capability())
    print(f"{len(codes)} texts compiled in {time.time() - start:.1f} s", flush=True)
    import torch  # only now, so that no compiling process has CUDA

    torch.zeros(1, device="cuda")
    modules = {}
    for key, job in jobs.items():
        try:
            modules[key] = Module(codes[job])
        except (RuntimeError, TypeError) as e:
            print(f"= {job}: {e}, {str(codes[job])[:300]}")
    return modules


def timed(functions, seconds=0.03):
    """Microseconds that a call takes on the GPU; the functions do the same with other inputs."""
    import torch

    def batch(count):
        start, end = (torch.cuda.Event(enable_timing=True) for _ in range(2))
        start.record()
        for i in range(count):
            functions[i % len(functions)]()
        end.record()
        end.synchronize()
        return start.elapsed_time(end) * 1000 / count

    batch(len(functions))
    one = batch(max(3, len(functions)))
    count = int(min(200, max(3, seconds / 5 * 1e6 / one)))
    return statistics.median(batch(count) for _ in range(5))


def error(actual, expected):
    """||actual - expected|| / ||expected||, or nan."""
    actual, expected = actual.double(), expected.double()
    return ((actual - expected).norm() / expected.norm()).item()


def table(title, heads, rows):
    """Prints rows of words under their heads, and marks them for the end of the output."""
    rows = [[str(w) for w in row] for row in [heads, *rows]]
    widths = [max(len(row[i]) for row in rows) for i in range(len(heads))]
    print(f"= {title}")
    for row in rows:
        print("= " + "  ".join(w.ljust(n) for w, n in zip(row, widths)).rstrip(), flush=True)


def capability():
    """Of the first GPU, as 90 for 9.0."""
    query = ["nvidia-smi", "--query-gpu=compute_cap", "--format=csv,noheader"]
    if not shutil.which(query[0]):
        text = "import torch; print('%d.%d' % torch.cuda.get_device_capability())"
        query = [sys.executable, "-c", text]
    output = subprocess.run(query, capture_output=True, text=True, check=True).stdout
    return output.split()[0].replace(".", "")


def poisoned(*shape, dtype, count=1):
    import torch

    return [torch.full(shape, float("nan"), dtype=dtype, device="cuda") for _ in range(count)]


# ---------------------------------------------------------------------------------------- attention
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


# ---------------------------------------------------------------------------------- LayerNorm, GELU
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


def best_of(label, variants, moved, seconds=0.02):
    """The fastest of {variant: calls}; `moved` bytes."""
    found = []
    for variant, calls in variants.items():
        us = timed(calls, seconds)
        found.append((us, variant))
        print(f"{label} {variant}: {us:.1f} us, {moved / us / 1e3:.0f} GB/s", flush=True)
    us, variant = min(found)
    return f"{us:.1f} ({moved / us / 1e3:.0f})", variant


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


# -------------------------------------------------------------------------------------------- AdamW
class Tensor(ctypes.Structure):
    _fields_ = [(n, ctypes.c_void_p) for n in ("model", "m", "v", "gradient", "copy")]
    _fields_ += [("size", L), ("rate", F), ("decay", F), ("gradient_kind", I), ("copy_kind", I)]


class Settings(ctypes.Structure):
    _fields_ = [(n, F) for n in ("beta1", "beta2", "epsilon", "scale", "l1", "l2")]


def vit_base_shapes():
    """The parameters of the autoencoder on ViT-Base: 112 million."""

    def blocks(count, d):
        one = [
            (d,),
            (d,),
            (d, 3 * d),
            (3 * d,),
            (d, d),
            (d,),
            (d,),
            (d,),
            (d, 4 * d),
            (4 * d,),
            (4 * d, d),
            (d,),
        ]
        return one * count

    return [
        (768, 768),
        (768,),
        (1, 768),
        *blocks(12, 768),
        (768,),
        (768,),
        (768, 512),
        (512,),
        (1, 512),
        *blocks(8, 512),
        (512,),
        (512,),
        (512, 768),
        (768,),
    ]


def adamw():
    module = load({"adamw": ("adamw", ())})["adamw"]
    with turn():
        adamw_table(module)


def adamw_table(module):
    import numpy as np
    import torch

    found = []
    torch.manual_seed(0)
    shapes = vit_base_shapes()
    settings = Settings(0.9, 0.95, 1e-8, 1, 0, 0)
    for kind, copy in ((0, 0), (0, 1), (1, 1)):
        p, m, v = ([torch.randn(s, device="cuda") for s in shapes] for _ in range(3))
        v = [x.abs() for x in v]
        g = [
            torch.randn(s, device="cuda", dtype=torch.float16 if kind else torch.float32)
            for s in shapes
        ]
        c = [torch.empty(s, device="cuda", dtype=torch.float16) for s in shapes]
        numel = sum(x.numel() for x in p)
        entries = [
            Tensor(
                a.data_ptr(),
                b.data_ptr(),
                d.data_ptr(),
                e.data_ptr(),
                f.data_ptr() if copy else None,
                a.numel(),
                1,
                0.05,
                kind,
                1,
            )
            for a, b, d, e, f in zip(p, m, v, g, c)
        ]
        tensors = torch.frombuffer(
            bytearray(b"".join(map(bytes, entries))), dtype=torch.uint8
        ).cuda()
        chunks = [(i, k) for i, a in enumerate(p) for k in range(-(-a.numel() // 16384))]
        chunks = torch.from_numpy(np.array(chunks, np.int32)).cuda()
        scalars = [torch.tensor([s], device="cuda") for s in (1e-3, 1.0, 0.1, 0.05)]
        arguments = [tensors, chunks, settings, *scalars, None]
        before = [x[3].double() for x in (p, m, v, g)]
        module.prepare("adamw", len(chunks), 256, arguments)()
        dm = 0.9 * before[1] + 0.1 * before[3]
        dv = 0.95 * before[2] + 0.05 * before[3] ** 2
        want = before[0] - 1e-3 / 0.1 * dm / ((dv / 0.05).sqrt() + 1e-8) - 1e-3 * 0.05 * before[0]
        e = error(p[3], want)
        variants = {
            f"{t} threads": [module.prepare("adamw", len(chunks), t, arguments)]
            for t in (128, 256, 512)
        }
        moved = numel * (24 + (2 if kind else 4) + (2 if copy else 0))
        best = best_of(f"adamw {kind} {copy}", variants, moved, 0.1)
        found.append(
            [
                f"{numel / 1e6:.0f} M",
                "half" if kind else "float",
                "half" if copy else "none",
                *best,
                f"{e:.1e}",
            ]
        )
    parameters = [torch.nn.Parameter(x) for x in p]
    for a in parameters:
        a.grad = torch.randn_like(a)
    optimizer = torch.optim.AdamW(parameters, lr=1e-3, betas=(0.9, 0.95), fused=True)
    optimizer.step()
    us = timed([optimizer.step], 0.1)
    for row in found:
        row.append(f"{us:.0f} ({numel * 28 / us / 1e3:.0f})")
    table(
        "AdamW, us (GB/s)",
        ["size", "gradient", "copy", "best", "variant", "error", "torch fused"],
        found,
    )


# -------------------------------------------------------------------------- products and their ends
class CublasLt:
    """A product of row-major matrices by cuBLASLt: y [m, n] = x [m, k] w [k, n], or of x^T.

    Numbers are those of cublasLt.h.
    """

    EPILOGUES = {"plain": 1, "bias": 4, "gelu bias": 36, "gelu aux bias": 164, "bgrad": 256}

    def __init__(self):
        import torch

        self.lib, self.handle = (
            ctypes.CDLL(find_library("libcublasLt.so.1[0-9]")),
            ctypes.c_void_p(),
        )
        self.ok(self.lib.cublasLtCreate(ctypes.byref(self.handle)))
        self.workspace = torch.empty(32 << 20, dtype=torch.uint8, device="cuda")

    def ok(self, status):
        if status:
            raise RuntimeError(f"cublasLt status {status}")

    def layout(self, matrix):
        """Of a row-major tensor, seen column by column."""
        kind = {"torch.float32": 0, "torch.float16": 2, "torch.bfloat16": 14}[str(matrix.dtype)]
        found, (r, c) = ctypes.c_void_p(), matrix.shape
        self.ok(
            self.lib.cublasLtMatrixLayoutCreate(
                ctypes.byref(found), kind, ctypes.c_uint64(c), ctypes.c_uint64(r), ctypes.c_int64(c)
            )
        )
        return found

    def calls(
        self, x, w, y, transposed=False, epilogue="plain", bias=None, aux=None, residual=None
    ):
        """A function for each algorithm that cuBLASLt suggests, its first choice first."""
        import torch

        def pointer(t):
            return ctypes.c_void_p(t.data_ptr())

        desc, preference = ctypes.c_void_p(), ctypes.c_void_p()
        self.ok(self.lib.cublasLtMatmulDescCreate(ctypes.byref(desc), 68, 0))

        def put(attribute, value):
            self.ok(
                self.lib.cublasLtMatmulDescSetAttribute(
                    desc, attribute, ctypes.byref(value), ctypes.c_size_t(ctypes.sizeof(value))
                )
            )

        put(4, I(1 if transposed else 0))  # TRANSB
        put(7, I(self.EPILOGUES[epilogue]))
        if bias is not None:
            put(8, pointer(bias))
            put(
                26,
                I({"torch.float32": 0, "torch.float16": 2, "torch.bfloat16": 14}[str(bias.dtype)]),
            )
        if aux is not None:
            put(11, pointer(aux))
            put(12, L(aux.shape[1]))
        self.ok(self.lib.cublasLtMatmulPreferenceCreate(ctypes.byref(preference)))
        room = ctypes.c_size_t(self.workspace.numel())
        self.ok(
            self.lib.cublasLtMatmulPreferenceSetAttribute(
                preference, 1, ctypes.byref(room), ctypes.c_size_t(8)
            )
        )
        a, b, d = self.layout(w), self.layout(x), self.layout(y)
        results, returned = (ctypes.c_char * (96 * 8))(), ctypes.c_int()
        self.ok(
            self.lib.cublasLtMatmulAlgoGetHeuristic(
                self.handle, desc, a, b, d, d, preference, 8, results, ctypes.byref(returned)
            )
        )
        one, zero = F(1), F(0 if residual is None else 1)
        stream = ctypes.c_void_p(torch.cuda.current_stream().cuda_stream)

        def call(i):
            algorithm = ctypes.byref(results, 96 * i)

            def run():
                c = y if residual is None else residual
                self.ok(
                    self.lib.cublasLtMatmul(
                        self.handle,
                        desc,
                        ctypes.byref(one),
                        pointer(w),
                        a,
                        pointer(x),
                        b,
                        ctypes.byref(zero),
                        pointer(c),
                        d,
                        pointer(y),
                        d,
                        algorithm,
                        pointer(self.workspace),
                        ctypes.c_size_t(self.workspace.numel()),
                        stream,
                    )
                )

            return run

        return [call(i) for i in range(returned.value)]


def products():
    with turn():
        product_table()


def product_table():
    import torch

    lt, found, half = CublasLt(), [], torch.float16
    torch.manual_seed(0)
    shapes = [
        (12800, 768, 2304),
        (12800, 768, 768),
        (12800, 768, 3072),
        (12800, 3072, 768),
        (50432, 512, 1536),
        (50432, 512, 2048),
        (50432, 2048, 512),
        (25216, 768, 3072),
    ]
    for m, k, n in shapes:
        x, w, dy = (
            torch.randn(*s, device="cuda", dtype=half) * 0.1 for s in ((m, k), (k, n), (m, n))
        )
        bias, dbias = torch.randn(n, device="cuda", dtype=half), torch.empty(
            n, device="cuda", dtype=half
        )
        y, aux, dw = torch.empty_like(dy), torch.empty_like(dy), torch.empty_like(w)
        wide, residual = (torch.zeros(m, n, device="cuda") for _ in range(2))
        dw_wide, b32 = torch.empty(k, n, device="cuda"), bias.float()
        jobs = {
            "plain": dict(x=x, w=w, y=y),
            "bias": dict(x=x, w=w, y=y, epilogue="bias", bias=bias),
            "gelu bias": dict(x=x, w=w, y=y, epilogue="gelu bias", bias=bias),
            "gelu aux": dict(x=x, w=w, y=y, epilogue="gelu aux bias", bias=bias, aux=aux),
            "float y": dict(x=x, w=w, y=wide),
            "float y += , bias": dict(
                x=x, w=w, y=wide, epilogue="bias", bias=b32, residual=residual
            ),
            "dw": dict(x=x, w=dy, y=dw, transposed=True),
            "dw float": dict(x=x, w=dy, y=dw_wide, transposed=True),
            "dw, dbias": dict(x=x, w=dy, y=dw, transposed=True, epilogue="bgrad", bias=dbias),
        }
        row = [f"{m},{k},{n}"]
        for name, job in jobs.items():
            try:
                calls = lt.calls(**job)
                times = [timed([c], 0.01) for c in calls]
                rate = 2 * m * k * n / 1e6 / min(times)
                row.append(
                    f"{times[0]:.0f}/{min(times):.0f}"
                    + (f" ({rate:.0f})" if name == "plain" else "")
                )
                print(row[0], name, [round(t, 1) for t in times], flush=True)
            except RuntimeError as e:
                row.append(str(e)[-12:])
        found.append(row)
        if len(found) == 1:
            which_gelu(lt, x, w, bias)
    table("cuBLASLt, us: first choice/best of 8 (TFLOP/s)", ["m,k,n", *jobs], found)


def which_gelu(lt, x, w, bias):
    """Whether cuBLASLt's GELU is the tanh approximation."""
    import torch

    y = torch.empty(x.shape[0], w.shape[1], device="cuda", dtype=x.dtype)
    w, bias = w * 0, torch.linspace(-3, 3, w.shape[1], device="cuda").to(x.dtype)
    lt.calls(x, w, y, epilogue="gelu bias", bias=bias)[0]()
    b, gelu = bias.double(), torch.nn.functional.gelu
    exact, tanh = (y[0] - gelu(b)).abs().max(), (y[0] - gelu(b, approximate="tanh")).abs().max()
    print(f"= cuBLASLt's GELU differs from erf's by {exact:.1e}, from tanh's by {tanh:.1e}")
    y = torch.empty_like(y)
    plain = torch.empty_like(y)
    lt.calls(x, w + 0.01, plain)[0]()
    print("= a plain product's error", f"{error(plain, x.double() @ (w.double() + 0.01)):.1e}")


# ---------------------------------------------------------------------------------------------- all
def main(names):
    start, log, tables, running = time.time(), [], [], {}
    for name in names or GROUPS:
        command = [sys.executable, "-u", __file__, "--group", name]
        output = Path(f"/tmp/gpu_kernels_{name}.txt")
        with open(output, "w") as file:
            running[name] = subprocess.Popen(command, stdout=file, stderr=subprocess.STDOUT), output
        time.sleep(0.2)
    for name, (process, output) in running.items():
        try:
            process.wait(max(1, start + LIMIT - time.time()))
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait()
        lines = output.read_text().splitlines()
        log += lines
        tables.append(f"--- {name}, status {process.returncode}")
        tables += [line[2:] for line in lines if line.startswith("= ")]
        if process.returncode:
            tables += [line[:200] for line in lines[-12:]]
    (Path(os.environ.get("OUT", ".")) / "gpu_kernels.log").write_text("\n".join(log))
    print("\n".join(line[:150] for line in log if not line.startswith("= ")))
    print("\n".join(tables))
    print(f"{time.time() - start:.0f} s in all")


if __name__ == "__main__":
    if {"-h", "--help"} & set(sys.argv):
        print(__doc__)
    elif sys.argv[1:2] == ["--group"]:
        globals()[sys.argv[2]]()
    else:
        main(sys.argv[1:])
