"""How long each operator of OneFlow takes on this rank: kernel_times.cpp built and loaded."""
import ctypes
import glob
import os
import shutil
import subprocess
import tempfile

import oneflow as flow

SOURCE = os.path.join(os.path.dirname(os.path.abspath(__file__)), "kernel_times.cpp")
# The static pointer in Singleton<KernelObserver>::GetPPtr.
OBSERVER = "_ZZN7oneflow9SingletonINS_14KernelObserverEvE7GetPPtrEvE3ptr"

WAITING = ("wait_and_send_ids", "critical_section_wait_tick")  # asleep until there is work


class KernelTimes:
    """Times of kernels since `start`.

    Example::

        times = KernelTimes()
        times.start()
        graph(images)
        times.report()  # [[operator, seconds, calls], ...], longest first

    Raises:
        RuntimeError: there is no g++, or this OneFlow is built otherwise.
    """

    def __init__(self):
        oneflow_library, protobuf = map(find_library, ("liboneflow", "libprotobuf"))
        ctypes.CDLL(protobuf, mode=ctypes.RTLD_GLOBAL)  # loaded already, visible from now on
        self.library = build()
        self.library.kernel_times_start.argtypes = [ctypes.c_void_p]
        self.library.kernel_times_report.restype = ctypes.c_char_p
        try:
            pointer = ctypes.c_void_p.in_dll(ctypes.CDLL(oneflow_library), OBSERVER)
        except ValueError:
            raise RuntimeError(f"OneFlow {flow.__version__} has no kernel observer") from None
        self.observer = ctypes.addressof(pointer)

    def start(self):
        """Count from now on."""
        self.library.kernel_times_start(self.observer)

    def report(self):
        """[[operator, seconds, calls], ...] since the start, longest first."""
        lines = self.library.kernel_times_report().decode().splitlines()
        rows = [line.rsplit(" ", 2) for line in lines]
        rows = [[name, float(s), int(calls)] for name, s, calls in rows if name not in WAITING]
        return sorted(rows, key=lambda row: -row[1])


def find_library(name):
    """The path of a library that came with OneFlow."""
    folder = os.path.join(os.path.dirname(flow.__file__), "..", "oneflow.libs")
    found = glob.glob(os.path.join(folder, f"{name}-*.so*"))
    if not found:
        raise RuntimeError(f"there is no {name} in {folder}")
    return os.path.realpath(found[0])


def build():
    """Compile the observer and load it."""
    if not shutil.which("g++"):
        raise RuntimeError("the times of operators need g++, and there is none: install it")
    with tempfile.TemporaryDirectory() as folder:
        path = os.path.join(folder, "kernel_times.so")
        # OneFlow is built with the old layout of std::string.
        flags = ["-std=c++17", "-O2", "-fPIC", "-shared", "-D_GLIBCXX_USE_CXX11_ABI=0"]
        subprocess.run(["g++", *flags, SOURCE, "-o", path], check=True)
        return ctypes.CDLL(path)
