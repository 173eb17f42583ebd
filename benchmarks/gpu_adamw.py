"""AdamW of csrc/cuda/layers, one launch for all parameters, on one GPU beside PyTorch's."""
import ctypes

from benchmarks.gpu_timing import F, I, L, best_of, error, load, table, timed, turn


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
