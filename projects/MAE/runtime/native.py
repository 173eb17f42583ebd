"""Loads the native kernels of csrc/ into OneFlow: those for the CPU here, CUDA's in `cuda_kernels`.

They register themselves for OneFlow's operators with a priority above its own kernels, so eager
mode and graphs use them without a change. Where there is no library (no C++ compiler, a checkout
of LiBai) or MAE_NATIVE=0 is set, OneFlow's kernels run: the same numbers, slower.
"""
import ctypes
import functools
import glob
import os
import sys

from projects.MAE.errors import UserError
from projects.MAE.runtime import blas

NAME = "libmae_native.so"  # in the `lib` folder of the environment; tools/setup.sh builds it
_library = None  # once it is loaded
_openblas = None  # the path of the one in use


def load(device=None):
    """Load the kernels for a kind of device, once, before the first operator runs.

    Args:
        device: "cpu", "cuda", or None for what this machine has: the CPU, and perhaps a GPU.

    Returns:
        What `load_for_cpu` does, or for "cuda" what `cuda_kernels.load` does.
    """
    import oneflow as flow

    if device == "cuda" or (device is None and flow.cuda.is_available()):
        from projects.MAE.runtime import cuda_kernels

        loaded = cuda_kernels.load()
        if device == "cuda":
            return loaded
    return load_for_cpu()


@functools.lru_cache(maxsize=None)
def load_for_cpu():
    """Load the CPU kernels.

    MAE_NATIVE in the environment: 0 leaves them out, 1 demands them, a path is the library.

    Returns:
        The instruction set in use ("avx512", "avx2", "sse2"), or None without the library.
    """
    wish = os.environ.get("MAE_NATIVE", "")
    path = wish if wish not in ("", "0", "1") else os.path.join(sys.prefix, "lib", NAME)
    is_there = os.path.exists(path)
    if wish not in ("", "0") and not is_there:
        raise UserError(
            f"MAE_NATIVE={wish}: there is no {path}; run tools/setup.sh where there is a C++17 "
            "compiler, or set MAE_NATIVE=0 to go without"
        )
    if wish == "0" or not is_there:
        blas.check_without_kernels()
        return None
    openblas = blas.openblas_library()
    expose_oneflow()
    try:
        library = ctypes.CDLL(path)
        library.mae_use_openblas, library.mae_native_register  # AttributeError: an older library
    except (OSError, AttributeError) as error:
        raise UserError(
            f"the native kernels in {path} can't be loaded ({error}): run tools/setup.sh again, "
            "or set MAE_NATIVE=0 to go without"
        ) from None
    if openblas:
        _use_openblas(library, openblas)
    library.mae_native_register()
    library.mae_native_instruction_set.restype = ctypes.c_char_p
    # PyDLL keeps Python's lock, which the functions that take and give tensors need.
    global _library
    _library = ctypes.PyDLL(path)
    _library.mae_call.restype = ctypes.c_char_p
    _library.mae_output.restype = ctypes.py_object
    _library.mae_set_new_tensor(_function_of_oneflow(NEW_TENSOR))
    return library.mae_native_instruction_set().decode()


# oneflow::one::PyTensor_New(std::shared_ptr<oneflow::one::Tensor> const&)
NEW_TENSOR = "_ZN7oneflow3one12PyTensor_NewERKSt10shared_ptrINS0_6TensorEE"


class _Names(ctypes.Structure):
    _fields_ = [("count", ctypes.c_int), ("name", ctypes.POINTER(ctypes.c_char_p))]

    def __init__(self, names):
        array = (ctypes.c_char_p * len(names))(*(name.encode() for name in names))
        super().__init__(len(names), array)


def call(operator, inputs, outputs, **attributes):
    """Run one of the library's own operators, after `load`.

    Args:
        operator: its name, "mae_attention" for example.
        inputs: {name: tensor}.
        outputs: names of the results.
        attributes: whole numbers (int) and real ones (float).

    Returns:
        A list of tensors, not connected to the inputs for a backward pass.
    """
    tensors = (ctypes.py_object * len(inputs))(*inputs.values())
    reals = {name: value for name, value in attributes.items() if isinstance(value, float)}
    whole = {name: value for name, value in attributes.items() if name not in reals}
    error = _library.mae_call(
        operator.encode(),
        _Names(inputs),
        tensors,
        _Names(outputs),
        _Names(whole),
        (ctypes.c_int64 * len(whole))(*whole.values()),
        _Names(reals),
        (ctypes.c_double * len(reals))(*reals.values()),
    )
    if error is not None:
        raise RuntimeError(f"{operator}: {error.decode()}")
    return [_library.mae_output(i) for i in range(len(outputs))]


def matrix_products():
    """What multiplies matrices after `load`, in words."""
    if _openblas is not None:
        return "OpenBLAS"
    return "MKL" if blas.mkl_is_preloaded() else "the BLAS inside OneFlow"


def _use_openblas(library, path):
    global _openblas
    # Else it would start a thread for each core when it is loaded. NumPy has an OpenBLAS of its own.
    threads = os.environ.get("OPENBLAS_NUM_THREADS")
    os.environ["OPENBLAS_NUM_THREADS"] = "1"
    library.mae_use_openblas.restype = ctypes.c_char_p
    error = library.mae_use_openblas(path.encode(), blas.PREFIX.encode())
    if threads is None:
        del os.environ["OPENBLAS_NUM_THREADS"]
    else:
        os.environ["OPENBLAS_NUM_THREADS"] = threads
    if error:
        way_out = "MAE_BLAS=mkl" if blas.mkl_is_preloaded() else "MAE_NATIVE=0"
        raise UserError(f"OpenBLAS can't be used ({error.decode()}): set {way_out} to go without")
    _openblas = path


def expose_oneflow():
    """Make the symbols of OneFlow's libraries visible to the one that is loaded next."""
    import oneflow

    folder = os.path.join(os.path.dirname(os.path.dirname(oneflow.__file__)), "oneflow.libs")
    for name in ("liboneflow", "libof_protoobj", "libprotobuf"):
        for path in glob.glob(os.path.join(folder, f"{name}-*.so*")):
            ctypes.CDLL(path, mode=ctypes.RTLD_GLOBAL)


def _function_of_oneflow(name):
    """The address of a function of OneFlow's Python module.

    Its symbols are not made visible: among them are those of LLVM, which PyTorch brings, too. A
    process that imported PyTorch afterwards took OneFlow's for its own and crashed at its end.
    """
    import oneflow

    module = ctypes.CDLL(oneflow._oneflow_internal.__file__)
    return ctypes.cast(getattr(module, name), ctypes.c_void_p)
