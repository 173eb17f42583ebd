"""NVRTC and the CUDA driver by ctypes: csrc/cuda/layers compiled, launched on PyTorch's stream."""
import concurrent.futures
import ctypes
import glob
import sys
from pathlib import Path

CUDA = Path(__file__).resolve().parents[1] / "csrc/cuda/layers"


def find_library(pattern):
    """The first library of this name beside the Python packages, or the name for the loader."""
    for folder in sys.path:
        found = sorted(glob.glob(f"{folder}/nvidia/**/{pattern}", recursive=True))
        found = [f for f in found if ".alt." not in f]
        if found:
            return found[-1]
    found = sorted(glob.glob(f"/usr/local/cuda*/lib64/{pattern}"))
    return found[-1] if found else pattern


def compile_text(name, flags, capability):
    """The machine code of a file of csrc/cuda/layers; flags such as -DHEAD_SIZE=64."""
    nvrtc = ctypes.CDLL(find_library("libnvrtc.so.1[0-9]*"))
    program, size = ctypes.c_void_p(), ctypes.c_size_t()
    text = (CUDA / f"{name}.cu").read_bytes()
    nvrtc.nvrtcCreateProgram(ctypes.byref(program), text, f"{name}.cu".encode(), 0, None, None)
    options = [f"--gpu-architecture=sm_{capability}", "--std=c++17", f"-I{CUDA}", *flags]
    array = (ctypes.c_char_p * len(options))(*[o.encode() for o in options])
    failed = nvrtc.nvrtcCompileProgram(program, len(options), array)
    nvrtc.nvrtcGetProgramLogSize(program, ctypes.byref(size))
    log = ctypes.create_string_buffer(size.value)
    nvrtc.nvrtcGetProgramLog(program, log)
    if failed:
        raise RuntimeError(f"{name} {flags}: {log.value.decode()[:2000]}")
    nvrtc.nvrtcGetCUBINSize(program, ctypes.byref(size))
    code = ctypes.create_string_buffer(size.value)
    nvrtc.nvrtcGetCUBIN(program, code)
    return code.raw


def compile_all(jobs, capability):
    """{job: machine code, or what went wrong} of jobs (name, flags), all cores at once."""
    with concurrent.futures.ProcessPoolExecutor() as pool:
        futures = {job: pool.submit(compile_text, *job, capability) for job in jobs}
        return {job: future.exception() or future.result() for job, future in futures.items()}


def check(error):
    if error:
        raise RuntimeError(f"the CUDA driver says {error}")


class Module:
    """Kernels that are loaded. PyTorch has to have made its context."""

    def __init__(self, code):
        self._driver = ctypes.CDLL("libcuda.so.1")
        self._module = ctypes.c_void_p()
        check(self._driver.cuModuleLoadData(ctypes.byref(self._module), code))

    def prepare(self, name, grid, block, arguments, shared=0):
        """A function that launches the kernel with these arguments.

        Args:
            arguments: tensors, None for a null pointer, or ctypes values of the exact type.
        """
        import torch

        function = ctypes.c_void_p()
        check(self._driver.cuModuleGetFunction(ctypes.byref(function), self._module, name.encode()))
        if shared > 48 * 1024:
            check(self._driver.cuFuncSetAttribute(function, 8, shared))  # MAX_DYNAMIC_SHARED_SIZE
        values = [
            (
                ctypes.c_void_p(a.data_ptr() if isinstance(a, torch.Tensor) else None)
                if a is None or isinstance(a, torch.Tensor)
                else a
            )
            for a in arguments
        ]
        pointers = (ctypes.c_void_p * len(values))(*map(ctypes.addressof, values))
        sizes = [ctypes.c_uint(n) for n in (*three(grid), *three(block), shared)]
        stream = ctypes.c_void_p(torch.cuda.current_stream().cuda_stream)
        launch, keep = self._driver.cuLaunchKernel, (values, arguments)

        def run():
            keep  # what the pointers point to
            check(launch(function, *sizes, stream, pointers, None))

        return run


def three(size):
    size = (size,) if isinstance(size, int) else tuple(size)
    return size + (1,) * (3 - len(size))
