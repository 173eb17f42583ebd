"""Pillow's bicubic resize, four times as fast, and normalisation.

Both are C functions (`csrc/image/resample.c`) in a library of their own, which loads without
OneFlow, as worker processes must. They give Pillow's pixels to the bit, which is checked whenever
they are loaded; where there is no library (no C++ compiler, a checkout of LiBai) or no AVX2, or
where the check fails, Pillow and NumPy do the same work.
"""
import ctypes
import functools
import logging
import os
import sys

import numpy as np
from PIL import Image

LIBRARY = os.path.join(sys.prefix, "lib", "libmae_image.so")  # tools/setup.sh builds it
LONGEST_SIDE = 32767  # beyond it, sums of the C code could overflow

logger = logging.getLogger("libai." + __name__)


def resize(image, size, box=None):
    """`image.crop(box).resize(size, Image.BICUBIC)`, to the bit.

    Args:
        image: a `PIL.Image` of any mode; RGB is fast.
        size: (width, height) of the result, in pixels.
        box: (left, top, right, bottom) in pixels; None for the whole image. No pixel outside it
            has any influence.
    """
    box = (0, 0, *image.size) if box is None else box
    kernel = _kernel()
    if kernel is None or image.mode != "RGB" or not _fits(image, size, box):
        return image.crop(box).resize(size, Image.BICUBIC)
    return _resize(kernel, image, size, box)


def normalise(image, scale, bias):
    """RGB image [H, W] -> float32 [3, H, W]: pixel * scale + bias; both are float32 [3]."""
    kernel = _kernel()
    array = np.empty((3, image.height, image.width), np.float32)
    if kernel is None or image.mode != "RGB":
        # Band by band: Pillow unpacks RGB faster than NumPy strides over it.
        for channel, band in enumerate(image.split()):
            np.multiply(np.asarray(band), scale[channel], out=array[channel])
            array[channel] += bias[channel]
        return array
    address, _, _owner = _pixels(image, (0, 0, *image.size))
    count = image.width * image.height
    kernel.mae_normalise(address, count, scale.ctypes.data, bias.ctypes.data, array.ctypes.data)
    return array


def prepare():
    """Load the C code, so that the log of this process says why if it can't. True if it is used."""
    return _kernel() is not None


def _fits(image, size, box):
    left, top, right, bottom = box
    width, height = right - left, bottom - top
    inside = 0 <= left < right <= image.width and 0 <= top < bottom <= image.height
    # Of such a strip newer versions of Pillow scale the columns first, and round there.
    is_strip = height > 100 * width and size[1] < height
    return inside and not is_strip and min(size) > 0 and max(*size, *image.size) <= LONGEST_SIDE


def _resize(kernel, image, size, box):
    address, stride, _owner = _pixels(image, box)
    pixels = np.empty((size[1], size[0], 3), np.uint8)
    shape = box[2] - box[0], box[3] - box[1]
    if kernel.mae_resize(address, stride, *shape, pixels.ctypes.data, *size):
        raise MemoryError(f"no memory to resize an image of {shape[0]} x {shape[1]} pixels")
    return Image.fromarray(pixels)


def _pixels(image, box):
    """(address of the box's first pixel, bytes from one row to the next, what keeps them alive).

    A pixel takes 4 bytes, the last unused, as in Pillow's memory.
    """
    left, top, _, _ = box
    try:
        capsules = image.__arrow_c_array__()  # Pillow's own memory, not a copy; since Pillow 11.2
    except (AttributeError, ValueError):  # older, or too large for one piece of memory
        copy = np.frombuffer(image.crop(box).tobytes("raw", "RGBX"), np.uint8)
        return copy.ctypes.data, 4 * (box[2] - left), copy
    array = _capsule_pointer(capsules[1], b"arrow_array").contents
    first, stride = array.children[0].contents.buffers[1], 4 * image.width
    return first + top * stride + 4 * left, stride, capsules


class _ArrowArray(ctypes.Structure):
    """The beginning of the Arrow C data interface's struct of that name."""


_ArrowArray._fields_ = [
    *((name, ctypes.c_int64) for name in ("length", "nulls", "offset", "n_buffers", "n_children")),
    ("buffers", ctypes.POINTER(ctypes.c_void_p)),
    ("children", ctypes.POINTER(ctypes.POINTER(_ArrowArray))),
]
_capsule_pointer = ctypes.PYFUNCTYPE(
    ctypes.POINTER(_ArrowArray), ctypes.py_object, ctypes.c_char_p
)(("PyCapsule_GetPointer", ctypes.pythonapi))


@functools.lru_cache(maxsize=None)
def _kernel():
    """The C functions as a `ctypes.CDLL`, or None."""
    try:
        kernel = _load()
        reason = None if _agrees(kernel) else "they disagree with this Pillow"
    except (OSError, AttributeError) as error:  # missing or damaged; built from older sources
        reason = str(error)
    if reason is None:
        return kernel
    logger.info(f"Pillow resizes images, four times slower than the C functions: {reason}")
    return None


def _load():
    kernel = ctypes.CDLL(LIBRARY)
    if not kernel.mae_image_supported():
        raise OSError("this processor has no AVX2")
    size, pointer, number = [ctypes.c_int, ctypes.c_int], ctypes.c_void_p, ctypes.c_int64
    kernel.mae_resize.argtypes = [pointer, number, *size, pointer, *size]
    kernel.mae_normalise.argtypes = [pointer, number, pointer, pointer, pointer]
    kernel.mae_normalise.restype = None
    return kernel


def _agrees(kernel):
    """Whether a part of a small image, shrunk across and enlarged down, is Pillow's to the bit."""
    pixels = np.random.default_rng(0).integers(0, 256, (33, 81, 3), dtype=np.uint8)
    image, box, size = Image.fromarray(pixels), (3, 2, 80, 33), (24, 45)
    expected = image.crop(box).resize(size, Image.BICUBIC)
    return _resize(kernel, image, size, box).tobytes() == expected.tobytes()
