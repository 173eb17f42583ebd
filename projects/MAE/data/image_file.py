"""One image file to RGB pixels: what is read, how odd images become RGB, and what is refused.

Pixels are those of Pillow's `convert("RGB")`, which the authors' pipeline and torchvision's
ImageFolder use: transparency is dropped, and so is the EXIF orientation. The published weights and
accuracies were made this way, on images that lie as they were stored. Only where that conversion
loses the image (more than 8 bits of grey) does this module differ.
"""
import math
import os
import stat
import warnings

import numpy as np
from PIL import Image

# What counts as an image, in any case; the content, not the name, decides how a file is decoded.
EXTENSIONS = (
    *(".jpg", ".jpeg", ".jpe", ".jfif", ".png", ".apng", ".webp", ".gif", ".bmp", ".tif", ".tiff"),
    *(".ppm", ".pgm", ".pbm", ".pnm", ".jp2", ".j2k", ".avif"),
)

# Pillow knows forty formats more; some start other programs (EPS) or have no signature (TGA).
Image.init()
FORMATS = tuple(
    name
    for name in ("JPEG", "PNG", "WEBP", "GIF", "BMP", "TIFF", "PPM", "JPEG2000", "AVIF")
    if name in Image.OPEN  # AVIF since Pillow 11.3
)

MAX_PIXELS = 178_956_970  # Pillow's own limit; an image of it takes 0.7 GB as RGB

# Broken metadata, which nothing here reads; and images of half the pixels that are refused.
warnings.filterwarnings("ignore", category=UserWarning, module="PIL")
warnings.filterwarnings("ignore", category=Image.DecompressionBombWarning)


class BadImage(Exception):
    """A file that holds no image that can be read; the message says why, without the path."""


def read_image(path):
    """Decode a file to an RGB `PIL.Image` of 8 bits; of several frames or pages the first.

    Raises:
        BadImage: there is no such file, or it isn't a whole image of a known kind and size.
        MemoryError: the machine has no memory for it now, which may not be the file's fault.
    """
    try:
        # Without O_NONBLOCK a pipe would be waited for until somebody writes to it.
        with open(path, "rb", opener=_open_at_once) as file:
            if not stat.S_ISREG(os.fstat(file.fileno()).st_mode):
                raise BadImage("it is not a file")
            with Image.open(file, formats=FORMATS) as image:
                if math.prod(image.size) > MAX_PIXELS:  # Pillow's own limit may be raised
                    raise Image.DecompressionBombError
                return _to_rgb(image)
    except (BadImage, MemoryError):
        raise
    # Pillow's decoders raise OSError, SyntaxError, ValueError, struct.error and more.
    except Exception as error:
        raise BadImage(_reason(path, error)) from error


def _open_at_once(path, flags):
    return os.open(path, flags | os.O_NONBLOCK)


def _to_rgb(image):
    if image.mode == "P" and "transparency" in image.info:
        # Straight to RGB, Pillow warns about transparency given as bytes; the colours are the same.
        image = image.convert("RGBA")
    if image.mode[0] in "IF":
        image = _grey_of_8_bits(image)
    if image.mode != "RGB":
        return image.convert("RGB")
    image.load()  # `convert` would copy every pixel
    return image


def _grey_of_8_bits(image):
    """Grey of 16 bits to 8: the high byte, which is what Pillow keeps of 16-bit colours.

    Pillow's `convert` cuts off at 255 instead, which leaves a white image.
    """
    # "I" has 32 bits; what Pillow decodes to it from these two formats has 16.
    if not (image.mode.startswith("I;16") or image.mode == "I" and image.format in ("PNG", "PPM")):
        raise BadImage(
            "its pixels are numbers of no known range (32 bits, or 16 with a sign): save it with 8 or "
            "16 bits"
        )
    return Image.fromarray((np.asarray(image) >> 8).astype(np.uint8))


def _reason(path, error):
    if isinstance(error, Image.DecompressionBombError):
        return f"it has more than {MAX_PIXELS:,} pixels, or claims so: make it smaller"
    if isinstance(error, OSError) and error.strerror:
        return error.strerror.lower()
    if os.path.getsize(path) == 0:
        return "the file is empty"
    if isinstance(error, Image.UnidentifiedImageError):
        return "it is not an image of a known format"
    return (str(error).splitlines() or [type(error).__name__])[0]
