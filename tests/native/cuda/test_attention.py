"""Attention for CUDA (csrc/cuda/layers), emulated, agrees with NumPy in float64."""
import numpy as np
import pytest

from tests.support.emulated import CUDA, Kernels
from tests.support.needs import needs_cxx

pytestmark = needs_cxx
TOKENS = [1, 17, 50, 197, 300]
SIZES = [32, 64, 80]
TYPES = ["half", "bfloat16"]
# By how much results in half precision may differ, as a share of the norm.
TOLERANCE = {"half": 1e-3, "bfloat16": 8e-3, "float": 1e-5}


def to_bits(x, name):
    """Numbers as the kernels hold them."""
    x = np.asarray(x, np.float32)
    if name == "float":
        return x.copy()
    if name == "half":
        return x.astype(np.float16)
    bits = x.view(np.uint32).astype(np.uint64)
    return ((bits + 0x7FFF + (bits >> 16 & 1)) >> 16).astype(np.uint16)


def to_numbers(bits, name):
    if name == "bfloat16":
        return (bits.astype(np.uint32) << 16).view(np.float32).astype(np.float64)
    return bits.astype(np.float64)


def empty(shape, name):
    """Memory that is not yet written: NaN."""
    if name == "bfloat16":
        return np.full(shape, 0xFFFF, np.uint16)
    return np.full(shape, np.nan, {"half": np.float16, "float": np.float32}[name])


def close(actual, expected, tolerance):
    assert np.isfinite(actual).all()
    norm = np.linalg.norm(expected)
    assert np.linalg.norm(actual - expected) <= tolerance * max(norm, 1e-3)


def expected_attention(qkv, dout):
    """out, lse and dqkv of qkv [N, L, heads, 3, size]."""
    q, k, v = np.moveaxis(qkv, 3, 0)
    scale = qkv.shape[-1] ** -0.5
    s = np.einsum("nqhd,nkhd->nhqk", q, k) * scale
    top = s.max(-1, keepdims=True)
    lse = np.log(np.exp(s - top).sum(-1, keepdims=True)) + top
    p = np.exp(s - lse)
    out = np.einsum("nhqk,nkhd->nqhd", p, v)
    dp = np.einsum("nqhd,nkhd->nhqk", dout, v)
    ds = p * (dp - (p * dp).sum(-1, keepdims=True)) * scale
    dq = np.einsum("nhqk,nkhd->nqhd", ds, k)
    dk = np.einsum("nhqk,nqhd->nkhd", ds, q)
    dv = np.einsum("nhqk,nqhd->nkhd", p, dout)
    return out, lse[..., 0], np.stack([dq, dk, dv], 3)


class Case:
    """Inputs, and what is expected of them; spread is the standard deviation of q and k."""

    def __init__(self, name, samples, tokens, heads, size, spread=1.0):
        rng = np.random.default_rng(tokens * 100 + size)
        qkv = rng.standard_normal((samples, tokens, heads, 3, size))
        qkv[:, :, :, :2] *= spread
        self.name, self.size = name, size
        self.qkv = to_bits(qkv, name)
        self.dout = to_bits(rng.standard_normal((samples, tokens, heads, size)), name)
        found = expected_attention(to_numbers(self.qkv, name), to_numbers(self.dout, name))
        self.out, self.lse, self.dqkv = found
        self.sizes = [np.int32(heads), np.int32(tokens)]
        self.scale = np.float32(size**-0.5)

    def kernel(self, which):
        return f"attention_{which}_{self.name}_{self.size}"


def round_up(n, to):
    return -(-n // to) * to


class TensorCores:
    """attention.cu for a head size, a warp having 16 or 32 rows."""

    GROUPS = 2

    def __init__(self, size, rows, folder):
        flags = [f"-DHEAD_SIZE={size}", f"-DFORWARD_ROWS={rows}", f"-DBACKWARD_ROWS={rows}"]
        self.size, self.rows = size, rows
        self.kernels = Kernels(CUDA / "layers/attention.cu", *flags, folder=folder)

    def forward(self, case, warps, chunk):
        samples, tokens, heads, _, size = case.qkv.shape
        out, lse = empty(case.out.shape, case.name), np.full(case.lse.shape, np.nan, np.float32)
        own = self.rows * warps
        grid, shared = samples * heads * -(-tokens // own), own * (size + 8) + chunk * (
            2 * size + 8
        )
        arguments = [*case.sizes, np.int32(chunk), case.scale, case.qkv, out, lse]
        name = case.kernel("forward")
        self.kernels.launch(name, grid, 32 * warps, *arguments, shared=2 * shared)
        return out, lse

    def backward_whole(self, case, warps, out, lse):
        samples, tokens, heads, _, size = case.qkv.shape
        dqkv, pad = empty(case.qkv.shape, case.name), round_up(tokens, self.rows)
        shared = 2 * (pad * (4 * size + 16) + 16 * warps * (size + 8)) + 8 * (
            pad + 16 * self.GROUPS
        )
        arguments = [*case.sizes, case.scale, case.qkv, out, case.dout, lse, dqkv]
        grid = samples * heads
        self.kernels.launch(case.kernel("backward"), grid, 32 * warps, *arguments, shared=shared)
        return dqkv

    def backward_once(self, case, block, out, lse):
        samples, tokens, heads, _, size = case.qkv.shape
        dqkv, pad = empty(case.qkv.shape, case.name), round_up(tokens, self.rows)
        shared = 2 * pad * (4 * size + 16 + block + 8) + 8 * (pad + block + 16 * self.GROUPS)
        arguments = [*case.sizes, np.int32(block), case.scale, case.qkv, out, case.dout, lse, dqkv]
        shape = samples * heads, 32 * (pad // self.rows)
        self.kernels.launch(case.kernel("backward_once"), *shape, *arguments, shared=shared)
        return dqkv

    def backward_chunks(self, case, warps, chunk, out, lse):
        samples, tokens, heads, _, size = case.qkv.shape
        dqkv, delta = empty(case.qkv.shape, case.name), np.full_like(lse, np.nan)
        own = self.rows * warps
        shape = samples * heads * -(-tokens // own), 32 * warps
        begin = [*case.sizes, np.int32(chunk), case.scale, case.qkv]
        shared = 2 * (2 * own * (size + 8) + chunk * (2 * size + 8))
        arguments = [*begin, out, case.dout, lse, delta, dqkv]
        self.kernels.launch(case.kernel("backward_queries"), *shape, *arguments, shared=shared)
        shared = 2 * (own * (2 * size + 8) + chunk * (2 * size + 16))
        shared += 8 * (chunk + 16 * self.GROUPS)
        arguments = [*begin, case.dout, lse, delta, dqkv]
        self.kernels.launch(case.kernel("backward_keys"), *shape, *arguments, shared=shared)
        return dqkv


def soak_but(chosen, variants):
    """Fixture parameters: each takes seconds to compile, so one stands for all in the short run."""
    return [v if v == chosen else pytest.param(v, marks=pytest.mark.soak) for v in variants]


VARIANTS = [(size, rows) for size in SIZES for rows in (16, 32)]


@pytest.fixture(scope="module", params=soak_but((64, 16), VARIANTS))
def attention(request, tmp_path_factory):
    return TensorCores(*request.param, tmp_path_factory.mktemp("attention"))


@pytest.mark.parametrize("tokens", soak_but(17, TOKENS))
@pytest.mark.parametrize("name", TYPES)
def test_attention(attention, name, tokens):
    size = attention.size
    attention.kernels.order(tokens)
    case, tolerance = Case(name, 1, tokens, 2, size), TOLERANCE[name]
    warps = 2 if tokens < 100 else 4
    for chunk in {round_up(tokens, 16), 64}:
        out, lse = attention.forward(case, warps, chunk)
        close(to_numbers(out, name), case.out, tolerance)
        close(lse, case.lse, 1e-5)
    results = [attention.backward_chunks(case, warps, 64, out, lse)]
    if 2 * round_up(tokens, 32) * (4 * size + 16) < 200_000:
        results.append(attention.backward_whole(case, warps, out, lse))
        results.append(attention.backward_once(case, 16, out, lse))
        results.append(attention.backward_once(case, 48, out, lse))
    for dqkv in results:
        for i in range(3):
            expected = case.dqkv[:, :, :, i]
            close(to_numbers(dqkv[:, :, :, i], name), expected, 2 * tolerance)


@pytest.mark.parametrize("spread", [0.0, 10.0])
def test_scores_of_any_size(attention, spread):
    """All keys alike; and weights that are 0 or 1."""
    case = Case("half", 2, 33, 1, attention.size, spread)
    out, lse = attention.forward(case, 1, 48)
    close(to_numbers(out, "half"), case.out, 1e-3)
    for dqkv in attention.backward_whole(case, 3, out, lse), attention.backward_once(
        case, 32, out, lse
    ):
        close(to_numbers(dqkv, "half"), case.dqkv, 4e-3)


def test_the_order_of_threads_changes_nothing(attention):
    case, found = Case("half", 1, 50, 1, attention.size), set()
    for seed in range(4):
        attention.kernels.order(seed)
        out, lse = attention.forward(case, 4, 64)
        whole, once = attention.backward_whole(case, 4, out, lse), attention.backward_once(
            case, 32, out, lse
        )
        found.add(b"".join(a.tobytes() for a in (out, lse, whole, once)))
    assert len(found) == 1


@pytest.fixture(scope="module", params=[(32, 64), (64, 32), (80, 32), (80, 64)])
def plain(request, tmp_path_factory):
    """A head size, the tile, and the kernels without tensor cores for them."""
    size, tile = request.param
    folder = tmp_path_factory.mktemp("plain")
    flags = f"-DHEAD_SIZE={size}", f"-DTILE={tile}"
    return size, tile, Kernels(CUDA / "layers/attention_plain.cu", *flags, folder=folder)


@pytest.mark.soak
@pytest.mark.parametrize("tokens", [1, 17, 50, 130])
@pytest.mark.parametrize("name", ["float", "half"])
def test_attention_without_tensor_cores(plain, name, tokens):
    size, tile, kernels = plain
    kernels.order(tokens)
    case, tolerance = Case(name, 1, tokens, 2, size), TOLERANCE[name]
    grid, shared = 2 * -(-tokens // tile), 4 * tile * (4 * (size + 1) + tile + 1)
    out, dqkv = empty(case.out.shape, name), empty(case.qkv.shape, name)
    lse, delta = (np.full(case.lse.shape, np.nan, np.float32) for _ in range(2))
    begin = [grid, 256, *case.sizes, case.scale, case.qkv]
    kernels.launch(case.kernel("plain_forward"), *begin, out, lse, shared=shared)
    close(to_numbers(out, name), case.out, tolerance)
    close(lse, case.lse, 1e-5)
    last = [out, case.dout, lse, delta, dqkv]
    kernels.launch(case.kernel("plain_backward_queries"), *begin, *last, shared=shared)
    kernels.launch(case.kernel("plain_backward_keys"), *begin, *last[1:], shared=shared)
    close(to_numbers(dqkv, name), case.dqkv, tolerance)
