"""The emulation of CUDA computes what a GPU does, and reports what a GPU leaves undefined."""
import os
import subprocess

import numpy as np
import pytest

from tests.support.emulated import CUDA, CXX, Kernels
from tests.support.needs import needs_cxx

pytestmark = needs_cxx
SEEDS = range(6)

BARRIERS = """
// y = x backwards within each block, through shared memory.
KERNEL(reverse_NAME, (const float* x, float* y)) {
  __shared__ float tile[256];
  const int t = threadIdx.x, i = blockIdx.x * blockDim.x;
  tile[t] = x[i + t];
  BARRIER;
  y[i + t] = tile[blockDim.x - 1 - t];
}
// The sums of blocks, over tiles that are used again and again.
KERNEL(sums_NAME, (int n, const float* x, float* y)) {
  DYNAMIC_SHARED(float, tile);
  float sum = 0;
  for (int start = 0; start < n; start += blockDim.x) {
    tile[threadIdx.x] = start + (int)threadIdx.x < n ? x[blockIdx.x * n + start + threadIdx.x] : 0;
    __syncthreads();
    for (int i = 0; i < (int)blockDim.x; ++i) sum += tile[i];
    BARRIER;
  }
  y[blockIdx.x * blockDim.x + threadIdx.x] = sum;
}
"""
TEXT = """
KERNEL(warp_sums, (const float* x, float* y, unsigned mask)) {
  float v = x[threadIdx.x];
  for (int bits = 16; bits; bits >>= 1) v += __shfl_xor_sync(mask, v, bits);
  y[threadIdx.x] = v;
}
KERNEL(parts, (const float* x, float* y)) {  // two halves of a warp, each for itself
  const unsigned mask = threadIdx.x % 32 < 16 ? 0xffffu : 0xffff0000u;
  float v = x[threadIdx.x];
  if (threadIdx.x % 32 < 16) v = __shfl_sync(mask, v, 15);
  else v = __shfl_up_sync(mask, v, 1, 16);
  y[threadIdx.x] = v;
}
KERNEL(votes, (const int* x, unsigned* y)) {
  y[threadIdx.x] = __ballot_sync(~0u, x[threadIdx.x]) + __any_sync(~0u, x[threadIdx.x]);
}
KERNEL(indices, (int* y)) {
  const int block = blockIdx.x + gridDim.x * (blockIdx.y + gridDim.y * blockIdx.z);
  const int thread = threadIdx.x + blockDim.x * (threadIdx.y + blockDim.y * threadIdx.z);
  const int threads = blockDim.x * blockDim.y * blockDim.z;
  atomicAdd(&y[block * threads + thread], block * threads + thread);
}
KERNEL(leaves_early, (int n)) {
  if ((int)threadIdx.x >= n) return;
  __syncthreads();
}
KERNEL(two_barriers, (int n)) {
  if ((int)threadIdx.x < n) {
    __syncthreads();
  } else {
    __syncthreads();
  }
}
KERNEL(shuffle_or_barrier, (int n, float* y)) {
  if ((int)threadIdx.x < n) __syncthreads();
  else y[threadIdx.x] = __shfl_xor_sync(~0u, 1.0f, 1);
}
KERNEL(past_shared, (int i)) {
  SHARED(float, tile, 32);
  tile[threadIdx.x + i] = 1;
}
KERNEL(past_dynamic, (int i)) {
  DYNAMIC_SHARED(float, tile);
  tile[threadIdx.x + i] = 1;
}
KERNEL(fresh, (float* y)) {
  SHARED(float, tile, 32);
  DYNAMIC_SHARED(float, memory);
  if (threadIdx.x) tile[threadIdx.x] = memory[threadIdx.x] = 1;
  __syncthreads();
  y[blockIdx.x * 32 + threadIdx.x] = tile[threadIdx.x] + memory[threadIdx.x];
}
KERNEL(asynchronous, (const float* x, float* y, int left)) {
  SHARED(float, tile, 32 * 4);
  emulation::copy_async(tile + 4 * threadIdx.x, x + 4 * threadIdx.x, 16, 8);
  emulation::commit_async();
  emulation::wait_async(left);
  __syncthreads();
  for (int i = threadIdx.x; i < 128; i += 32) y[i] = tile[i];
}
KERNEL(product, (const unsigned short* a, const unsigned short* b, float* c, int is_bfloat16)) {
  SHARED(unsigned short, tile_a, 256);  // [16, 16]
  SHARED(unsigned short, tile_b, 128);  // [16, 8]
  for (int i = threadIdx.x; i < 256; i += 32) tile_a[i] = a[i];
  for (int i = threadIdx.x; i < 128; i += 32) tile_b[i] = b[i];
  __syncthreads();
  unsigned fragment_a[4], fragment_b[2];
  const int l = threadIdx.x;
  emulation::ldmatrix<4, false>(fragment_a, tile_a + (l % 16) * 16 + l / 16 * 8);
  emulation::ldmatrix<2, true>(fragment_b, tile_b + l % 16 * 8);
  float sum[4] = {0, 0, 0, 0};
  emulation::mma_16816(is_bfloat16, sum, fragment_a, fragment_b);
  for (int i = 0; i < 4; ++i) c[(l / 4 + i / 2 * 8) * 8 + l % 4 * 2 + i % 2] = sum[i];
}
"""


@pytest.fixture(scope="module")
def kernels(tmp_path_factory):
    """All of these; those of BARRIERS as they should be, "right", and with a barrier missing."""
    right = BARRIERS.replace("NAME", "right").replace("BARRIER;", "__syncthreads();")
    wrong = BARRIERS.replace("NAME", "wrong").replace("BARRIER;", "")
    return Kernels(right + wrong + TEXT, folder=tmp_path_factory.mktemp("kernels"))


def numbers(*shape):
    return np.random.default_rng(0).standard_normal(shape).astype(np.float32)


def reversed_blocks(kernels, name="right"):
    x, y = numbers(3, 256), np.zeros((3, 256), np.float32)
    kernels.launch(f"reverse_{name}", 3, 256, x, y)
    return np.array_equal(y, x[:, ::-1])


def sums(kernels, name):
    x, y = numbers(2, 300), np.zeros((2, 64), np.float32)
    kernels.launch(f"sums_{name}", 2, 64, np.int32(300), x, y, shared=256)
    return np.allclose(y, x.sum(axis=1, keepdims=True), atol=1e-4)


@pytest.mark.parametrize("seed", SEEDS)
@pytest.mark.parametrize("compute", [reversed_blocks, sums])
def test_barriers(kernels, compute, seed):
    kernels.order(seed)
    assert compute(kernels, "right")
    assert not compute(kernels, "wrong")


@pytest.mark.parametrize("seed", SEEDS)
def test_warps(kernels, seed):
    kernels.order(seed)
    x = numbers(2, 32)
    y = np.zeros_like(x)
    kernels.launch("warp_sums", 1, 64, x, y, np.uint32(0xFFFFFFFF))
    np.testing.assert_allclose(y, np.repeat(x.sum(1, keepdims=True), 32, 1), atol=1e-5)
    kernels.launch("parts", 1, 64, x, y)
    np.testing.assert_array_equal(y[:, :16], np.repeat(x[:, 15:16], 16, 1))
    np.testing.assert_array_equal(y[:, 16:], x[:, [16, *range(16, 31)]])
    votes, flags = np.zeros(32, np.uint32), (np.arange(32) % 3 == 0).astype(np.int32)
    kernels.launch("votes", 1, 32, flags, votes)
    assert (votes == sum(1 << i for i in range(0, 32, 3)) + 1).all()


def test_indices_of_three_axes(kernels):
    y = np.zeros(2 * 3 * 4 * 5 * 6 * 7, np.int32)
    kernels.launch("indices", (2, 3, 4), (5, 6, 7), y)
    np.testing.assert_array_equal(y, np.arange(y.size))


@pytest.mark.parametrize("seed", SEEDS)
@pytest.mark.parametrize(
    "kernel, block, arguments, message",
    [
        ("leaves_early", 64, [np.int32(40)], "has left"),
        ("two_barriers", 64, [np.int32(40)], "while another waits in line"),
        ("shuffle_or_barrier", 32, [np.int32(5), np.zeros(32, np.float32)], "nothing can go on"),
        ("warp_sums", 20, [numbers(32), numbers(32), np.uint32(0xFFFFFFFF)], "takes no part"),
        (
            "warp_sums",
            32,
            [numbers(32), numbers(32), np.uint32(0xFFFF)],
            "mask it is not|takes no part",
        ),
        ("past_shared", 32, [np.int32(1)], "past the end of SHARED"),
        ("past_dynamic", 32, [np.int32(1)], "past the end of dynamic"),
        ("nothing", 32, [], "no kernel is called nothing"),
        ("past_shared", 1025, [np.int32(0)], "a block of 1025 threads"),
    ],
)
def test_reports(kernels, kernel, block, arguments, message, seed):
    kernels.order(seed)
    with pytest.raises(RuntimeError, match=message):
        kernels.launch(kernel, 2, block, *arguments, shared=128)
    assert reversed_blocks(kernels)  # and goes on


def test_fresh_shared_memory_is_poisoned(kernels):
    y = np.zeros((3, 32), np.float32)
    kernels.launch("fresh", 3, 32, y, shared=128)
    assert np.isnan(y[:, 0]).all() and (y[:, 1:] == 2).all()


def test_asynchronous_copies_need_their_wait(kernels):
    x, y = numbers(32, 4), np.zeros((32, 4), np.float32)
    kernels.launch("asynchronous", 1, 32, x, y, np.int32(0))
    np.testing.assert_array_equal(y, x * [1, 1, 0, 0])
    kernels.launch("asynchronous", 1, 32, x, y, np.int32(1))
    assert np.isnan(y).all()


@pytest.mark.parametrize("is_bfloat16", [False, True])
def test_tensor_cores(kernels, is_bfloat16):
    a, b, c = numbers(16, 16), numbers(16, 8), np.zeros((16, 8), np.float32)
    if is_bfloat16:
        half = [(x.view(np.uint32) >> 16).astype(np.uint16) for x in (a, b)]
        wide = [(x.astype(np.uint32) << 16).view(np.float32) for x in half]
    else:
        half = [x.astype(np.float16) for x in (a, b)]
        wide = [x.astype(np.float32) for x in half]
    kernels.launch("product", 1, 32, *half, c, np.int32(is_bfloat16))
    np.testing.assert_allclose(c, wide[0] @ wide[1], rtol=1e-5, atol=1e-5)


SANITIZED = """
KERNEL(reads, (int i, float* y)) {
  SHARED_OR_DYNAMIC;
  tile[threadIdx.x] = 1;
  __syncthreads();
  y[threadIdx.x] = tile[threadIdx.x + i];
}
int main(int, char** arguments) {
  float y[32];
  emulation::launch({1, 32, 128}, reads, arguments[1][0] - '0', y);
  printf("%g\\n", y[0]);
}
"""


@pytest.mark.soak
@pytest.mark.parametrize("memory", ["__shared__ float tile[32]", "DYNAMIC_SHARED(float, tile)"])
def test_address_sanitizer_sees_reads_past_shared_memory(tmp_path, memory):
    source, program = tmp_path / "reads.cu", tmp_path / "reads"
    source.write_text(SANITIZED)
    command = [CXX, "-std=c++17", "-O1", "-g", "-fsanitize=address", "-x", "c++"]
    command += ["-include", CUDA / "emulation.h", f"-DSHARED_OR_DYNAMIC={memory}", source]
    subprocess.run([*command, "-o", program], check=True)
    # A preloaded BLAS would come before the sanitizer's own library.
    env = {name: value for name, value in os.environ.items() if name != "LD_PRELOAD"}
    good = subprocess.run([program, "0"], capture_output=True, text=True, env=env)
    assert (good.returncode, good.stdout) == (0, "1\n"), good.stderr
    bad = subprocess.run([program, "1"], capture_output=True, text=True, env=env)
    assert bad.returncode != 0 and "buffer-overflow" in bad.stderr + bad.stdout, bad.stderr
