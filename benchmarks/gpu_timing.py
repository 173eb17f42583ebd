"""What the benchmarks of single CUDA kernels share: the GPU in turns, times, errors, tables."""
import contextlib
import ctypes
import fcntl
import shutil
import statistics
import subprocess
import sys
import time

from benchmarks.gpu_device import Module, compile_all

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


def best_of(label, variants, moved, seconds=0.02):
    """The fastest of {variant: calls}; `moved` bytes."""
    found = []
    for variant, calls in variants.items():
        us = timed(calls, seconds)
        found.append((us, variant))
        print(f"{label} {variant}: {us:.1f} us, {moved / us / 1e3:.0f} GB/s", flush=True)
    us, variant = min(found)
    return f"{us:.1f} ({moved / us / 1e3:.0f})", variant
