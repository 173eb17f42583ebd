"""Loads the CUDA kernels of csrc/cuda, for GPUs that OneFlow has no code for.

OneFlow 0.9.0 has machine code for compute capability 6.0 to 8.6 and no PTX, so that every kernel of
its own fails on an H100 or later. The library takes the place of those kernels; NVRTC, NVIDIA's
run-time compiler, compiles them for the GPU at hand, once an installation.
"""
import ctypes
import functools
import glob
import os
import sys
import sysconfig

from projects.MAE.errors import UserError
from projects.MAE.runtime.native import expose_oneflow

NAME = "libmae_cuda.so"  # in the `lib` folder of the environment; csrc/cuda/build.sh builds it
OLDEST, NEWEST = (6, 0), (9, 0)  # OneFlow's own code: from OLDEST, below NEWEST


def has_oneflow_code(capability):
    """Whether OneFlow's own kernels run on a GPU of a compute capability, (major, minor)."""
    return OLDEST <= tuple(capability) < NEWEST


def can_run(capability):
    """Whether a GPU of a compute capability can be used: by OneFlow's kernels or by these."""
    if has_oneflow_code(capability):
        return True
    return tuple(capability) >= NEWEST and _wish() != "0" and os.path.exists(_path())


def load():
    """Put the kernels in the place of OneFlow's, if the GPU needs them; before the first operator.

    `native.load("cuda")` calls this.

    MAE_CUDA_KERNELS in the environment: 0 leaves them out, 1 loads them on any GPU, a path is the
    library. MAE_CUDA_CACHE is the folder of compiled code.

    Returns:
        What was loaded, in words, or None where OneFlow's own kernels run.

    Raises:
        UserError: the library or NVRTC is not there or can't be used, or there are several ranks.
    """
    import oneflow as flow

    capability = tuple(flow.cuda.get_device_capability())
    if not has_oneflow_code(capability) and flow.env.get_world_size() > 1:
        # Its NCCL has code for 6.0 to 8.0, and would abort the ranks in their first exchange.
        raise UserError(
            "several ranks can't compute on GPUs of compute capability "
            f"{_text(capability)}, for which OneFlow's NCCL has no code",
            way_out="start one rank (N=1), or compute on the CPU",
        )
    return _load_for(capability)


def _text(capability):
    return ".".join(map(str, capability))


@functools.lru_cache(maxsize=None)
def _load_for(capability):
    if _wish() == "0" or (has_oneflow_code(capability) and not _wish()):
        return None
    library = _open()
    library.mae_cuda_set_folders(_cache_folder().encode(), ":".join(_nvrtc_folders()).encode())
    problem = library.mae_cuda_nvrtc_problem()
    if problem:
        raise UserError(
            f"the GPU needs NVIDIA's run-time compiler, which can't be loaded ({problem.decode()})",
            way_out="run tools/setup.sh gpu, which installs it, or compute on the CPU",
        )
    compiled = ctypes.c_int()
    error = library.mae_cuda_compile(*capability, ctypes.byref(compiled))
    if error:
        raise UserError(
            f"the CUDA kernels can't be compiled for this GPU ({error.decode()})",
            way_out="use another GPU, or compute on the CPU",
        )
    library.mae_cuda_register(int(has_oneflow_code(capability)))
    version = library.mae_cuda_nvrtc_version().decode()
    origin = f"{compiled.value} files compiled now" if compiled.value else "from the cache"
    return f"native, for compute capability {_text(capability)}, NVRTC {version}, {origin}"


def _wish():
    return os.environ.get("MAE_CUDA_KERNELS", "")


def _path():
    wish = _wish()
    return wish if wish not in ("", "0", "1") else os.path.join(sys.prefix, "lib", NAME)


def _cache_folder():
    return os.environ.get("MAE_CUDA_CACHE") or os.path.join(sys.prefix, "lib", "mae_cuda_cache")


def _nvrtc_folders():
    """Where NVIDIA's packages put NVRTC: cuda_nvrtc for CUDA 11 and 12, cu13 for 13."""
    site = sysconfig.get_paths()["purelib"]
    folders = [os.path.join(site, "nvidia", name, "lib") for name in ("cuda_nvrtc", "cu13")]
    return [folder for folder in folders if glob.glob(os.path.join(folder, "libnvrtc.so.*"))]


def _open():
    path = _path()
    if not os.path.exists(path):
        raise UserError(
            f"MAE_CUDA_KERNELS={_wish() or 'automatic'}: there is no {path}",
            way_out="run tools/setup.sh where there is a C++17 compiler, or compute on the CPU",
        )
    # Bound now, to its own protobuf: once OneFlow's is exposed, OneFlow's configurations crash.
    from google.protobuf.pyext import _message  # noqa: F401

    expose_oneflow()
    try:
        library = ctypes.CDLL(path)
        library.mae_cuda_compile.restype = ctypes.c_char_p  # AttributeError: an older library
    except (OSError, AttributeError) as error:
        raise UserError(
            f"the CUDA kernels in {path} can't be loaded ({error})",
            way_out="run tools/setup.sh again, or compute on the CPU",
        ) from None
    library.mae_cuda_nvrtc_problem.restype = ctypes.c_char_p
    library.mae_cuda_nvrtc_version.restype = ctypes.c_char_p
    library.mae_cuda_stop_profile.restype = ctypes.c_char_p
    library.mae_cuda_register_emulated.restype = ctypes.c_char_p
    return library


def emulate(emulated, has_code=True):
    """For tests without a GPU: put the kernels in the place of OneFlow's on the CPU.

    Args:
        emulated: the path of the library that csrc/cuda/build_emulated.sh builds.
        has_code: whether OneFlow's CPU kernels do what is not done here, or are refused.
    """
    error = _open().mae_cuda_register_emulated(emulated.encode(), int(has_code))
    if error:
        raise RuntimeError(error.decode())
