"""NVRTC compiles the kernels for every generation of GPUs, and what it made is kept safely.

Needs NVRTC (the extra `gpu`), and no GPU.
"""
import contextlib
import ctypes
import glob
import importlib.util
import os

import pytest

COMPILE = """
import ctypes, sys
from projects.MAE.runtime import cuda_kernels
library = cuda_kernels._open()
library.mae_cuda_set_folders(sys.argv[1].encode(), ":".join(cuda_kernels._nvrtc_folders()).encode())
problem = library.mae_cuda_nvrtc_problem()
assert not problem, problem
count = ctypes.c_int()
error = library.mae_cuda_compile(int(sys.argv[2]), int(sys.argv[3]), ctypes.byref(count))
assert not error, error.decode()
print("compiled", count.value)
"""


def has_nvrtc():
    if importlib.util.find_spec("nvidia.cuda_nvrtc"):
        return True
    for name in ("libnvrtc.so.13", "libnvrtc.so.12", "libnvrtc.so.11.2"):
        with contextlib.suppress(OSError):
            return bool(ctypes.CDLL(name))
    return False


pytestmark = [
    pytest.mark.soak,
    pytest.mark.skipif(not has_nvrtc(), reason="there is no NVRTC: bash tools/setup.sh gpu"),
]


@pytest.fixture
def compiled(run_with_kernels, tmp_path):
    """Compile for a GPU of (major, minor); how many files were not in the cache of the test."""

    def run(major, minor):
        cache = str(tmp_path / "cache")
        said = run_with_kernels("-c", COMPILE, cache, str(major), str(minor))
        return int(said.split("compiled ")[-1])

    return run


@pytest.mark.parametrize("capability", [(6, 0), (7, 0), (8, 0), (8, 6), (9, 0)], ids=str)
def test_generations(compiled, capability):
    assert compiled(*capability) >= 10


def test_a_newer_gpu_takes_ptx(compiled, tmp_path):
    count = compiled(99, 0)
    files = glob.glob(str(tmp_path / "cache" / "*.bin"))
    assert len(files) == count
    assert all(b".target sm_" in open(path, "rb").read() for path in files)


def test_cache(compiled, tmp_path):
    count = compiled(7, 0)
    cache = tmp_path / "cache"
    assert compiled(7, 0) == 0
    first, second = sorted(cache.glob("*.bin"))[:2]
    first.write_bytes(first.read_bytes()[:-1] + b"?")  # damaged
    second.chmod(0o666)  # another could have written it
    assert compiled(7, 0) == 2
    assert compiled(7, 0) == 0 and not os.stat(second).st_mode & 0o022
    cache.chmod(0o777)
    assert compiled(7, 0) == count  # nothing in it is trusted
