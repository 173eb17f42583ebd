"""Which BLAS multiplies matrices in the native CPU kernels: MKL, or OpenBLAS.

MKL is preloaded (see cpu_environment.py) and serves OneFlow, too. On AMD's processors OpenBLAS is
faster: by a tenth over the products of a step of ViT-Base, float32, EPYC with AVX-512.
"""
import os

from projects.MAE.errors import UserError

CHOICES = ("mkl", "openblas")
FASTER_WITH_OPENBLAS = ("AuthenticAMD", "HygonGenuine")  # vendors, as /proc/cpuinfo spells them
MKL = "libmkl_rt"
PREFIX = "scipy_"  # of the names in the package's library


def openblas_library():
    """The path of OpenBLAS where it is to be used, else None.

    Without MAE_BLAS it is used on AMD's processors, and where MKL is not preloaded.
    """
    choice = chosen()
    if choice == "mkl" or (not choice and mkl_is_preloaded() and not _prefers_openblas()):
        return None
    try:
        import scipy_openblas32
    except ImportError:
        if choice:
            raise UserError(
                "MAE_BLAS=openblas: the package scipy-openblas32 is not installed; run "
                "tools/setup.sh, or set MAE_BLAS=mkl"
            ) from None
        return None
    return os.path.join(scipy_openblas32.get_lib_dir(), scipy_openblas32.get_library(fullname=True))


def mkl_is_preloaded():
    """Whether MKL takes the place of the BLAS inside OneFlow: whether what LD_PRELOAD asks for is in
    this process. A library that isn't found is left out, with a word on standard error."""
    if not asks_for_mkl():
        return False
    with open("/proc/self/maps") as file:
        return any(MKL in line for line in file)


def asks_for_mkl():
    """Whether LD_PRELOAD names MKL."""
    return MKL in os.environ.get("LD_PRELOAD", "")


def chosen():
    """What MAE_BLAS says: "mkl", "openblas" or ""; a UserError where that can't be."""
    choice = os.environ.get("MAE_BLAS", "")
    if choice not in ("", *CHOICES):
        raise UserError(f"MAE_BLAS={choice} must be {' or '.join(CHOICES)}, or not be set")
    if choice == "mkl" and not mkl_is_preloaded():
        raise UserError(
            "MAE_BLAS=mkl: MKL is not preloaded; run tools/setup.sh and start with tools/train.sh"
        )
    return choice


def check_without_kernels():
    """Raise a UserError where MAE_BLAS chooses what only the native kernels use: there are none."""
    if chosen() == "openblas":
        raise UserError(
            "MAE_BLAS=openblas: only the native kernels use it, and they are not loaded; run "
            "tools/setup.sh, and don't set MAE_NATIVE=0"
        )


def _prefers_openblas():
    with open("/proc/cpuinfo") as file:
        vendors = {line.split(":")[1].strip() for line in file if line.startswith("vendor_id")}
    return not vendors.isdisjoint(FASTER_WITH_OPENBLAS)
