"""Kernels of csrc/cuda on this CPU: compiled by g++, run by csrc/cuda/emulation.h."""
import ctypes
import hashlib
import os
import subprocess
import tempfile
from pathlib import Path

import numpy as np

CUDA = Path(__file__).resolve().parents[2] / "csrc/cuda"
CXX = os.environ.get("CXX", "g++")


class Kernels:
    """A library of kernels; `launch` runs one of them.

    Args:
        source: the path of a .cu file, or the text of kernels.
        flags: for g++, such as -DHEAD_SIZE=64.
        folder: where the library goes; a temporary one by default.
    """

    def __init__(self, source, *flags, folder=None):
        folder = Path(folder or tempfile.mkdtemp())
        if not isinstance(source, Path):
            text, source = source, folder / f"{hashlib.sha1(source.encode()).hexdigest()}.cu"
            source.write_text(text)
        name = hashlib.sha1(repr((source, flags)).encode()).hexdigest()
        library = folder / f"{name}.so"
        command = [CXX, "-std=c++17", "-O1", "-g1", "-fPIC", "-shared", "-fvisibility=hidden"]
        command += ["-Wall", "-Werror", "-Wno-unknown-pragmas", "-I", CUDA, "-x", "c++"]
        command += ["-include", CUDA / "emulation.h"]
        subprocess.run([*command, *flags, source, "-o", library], check=True)
        self._library = ctypes.CDLL(str(library))

    def order(self, seed):
        """In which order threads run, 0 for ascending."""
        self._library.emulation_order(seed)

    def launch(self, name, grid, block, *arguments, shared=0):
        """Run a kernel, as cuLaunchKernel does.

        Args:
            arguments: arrays, None for a null pointer, ctypes or NumPy scalars of the exact type.

        Raises:
            RuntimeError: the kernel did what a GPU leaves undefined.
        """
        values = [_value(a) for a in arguments]
        pointers = (ctypes.c_void_p * max(1, len(values)))(*map(ctypes.addressof, values))
        message = ctypes.create_string_buffer(2000)
        sizes = [ctypes.c_uint(n) for n in (*_three(grid), *_three(block))]
        failed = self._library.emulation_launch(
            name.encode(), *sizes, ctypes.c_size_t(shared), pointers, message, ctypes.c_size_t(2000)
        )
        if failed:
            raise RuntimeError(message.value.decode())


def _three(size):
    size = (size,) if isinstance(size, int) else tuple(size)
    return size + (1,) * (3 - len(size))


def _value(argument):
    """The memory that holds an argument."""
    if argument is None:
        return ctypes.c_void_p(0)
    if isinstance(argument, np.ndarray):
        assert argument.flags.c_contiguous
        return ctypes.c_void_p(argument.ctypes.data)
    if isinstance(argument, np.generic):
        return (ctypes.c_char * argument.nbytes).from_buffer_copy(argument.tobytes())
    return argument
