"""One image file to RGB pixels: what is read, how odd images become RGB, and what is refused.

Pixels are those of Pillow's `convert("RGB")`, which the authors' pipeline and torchvision's
ImageFolder use, but for `deep_pixels.py`: transparency is dropped. Images are turned as their EXIF
orientation says; with `exif="ignore"` they lie as they were stored, as the authors' do.
"""
import contextlib
import math
import os
import stat
import warnings
from typing import NamedTuple

from PIL import Image

from projects.MAE.data.deep_pixels import (
    ITS_PATH,
    BadImage,
    check_decoding,
    is_lost_once_decoded,
    opened_again,
    with_8_bits,
)
from projects.MAE.errors import shortage

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

ORIENTATION = 0x0112  # a tag of EXIF
# What makes an image with an EXIF orientation upright, and what undoes that.
UPRIGHT = {
    2: Image.Transpose.FLIP_LEFT_RIGHT,
    3: Image.Transpose.ROTATE_180,
    4: Image.Transpose.FLIP_TOP_BOTTOM,
    5: Image.Transpose.TRANSPOSE,
    6: Image.Transpose.ROTATE_270,
    7: Image.Transpose.TRANSVERSE,
    8: Image.Transpose.ROTATE_90,
}
AS_STORED = {**UPRIGHT, 6: UPRIGHT[8], 8: UPRIGHT[6]}


class Reading(NamedTuple):
    """How files become pixels: the settings data.exif and data.bits."""

    exif: str = "apply"  # the EXIF orientation; or "ignore"
    bits: int = None  # that are used of files of 16 bits a colour, 8 to 16; all of them by default

    def __str__(self):
        return f"data.exif={self.exif} data.bits={self.bits or 16}"


def told_reading(told, otherwise=Reading(exif="ignore")):
    """The `Reading` of a model card or of facts, {"exif", "bits": value}, else of `otherwise`:
    images as stored, which is how the authors' code, timm and transformers train."""
    exif, bits = told.get("exif") or otherwise.exif, told.get("bits") or otherwise.bits
    same = (exif, bits or 16) == (otherwise.exif, otherwise.bits or 16)
    return otherwise if same else Reading(exif, bits)


def read_image(path, reading=Reading()):
    """Decode a file to an RGB `PIL.Image` of 8 bits; of several frames or pages the first.

    Raises:
        BadImage: there is no such file, or it isn't a whole image of a known kind and size, or it
            has larger values than reading.bits.
        MemoryError: the machine has no memory for it now, which may not be the file's fault.
    """
    with open_image(path) as image:
        return _to_rgb(image, reading)


@contextlib.contextmanager
def open_image(path):
    """The `PIL.Image` of a file, of which only the header is read; errors as of `read_image`."""
    try:
        # Without O_NONBLOCK a pipe would be waited for until somebody writes to it.
        with open(path, "rb", opener=_open_at_once) as file:
            if not stat.S_ISREG(os.fstat(file.fileno()).st_mode):
                raise BadImage("it is not a file")
            with Image.open(file, formats=FORMATS) as image:
                if math.prod(image.size) > MAX_PIXELS:  # Pillow's own limit may be raised
                    raise Image.DecompressionBombError
                check_decoding(image)
                yield image
    except (BadImage, MemoryError):
        raise
    # Pillow's decoders raise OSError, SyntaxError, ValueError, struct.error and more.
    except Exception as error:
        raise shortage(error) or BadImage(_reason(path, error)) from error


def to_rgb(image, reading=Reading()):
    """A `PIL.Image` as `read_image` gives the file that it came from; errors as there.

    One that Pillow would cut to 8 bits or misread stays undecoded, to give the same another time.
    """
    try:
        if is_lost_once_decoded(image, reading.bits):
            with opened_again(image) as other:
                return _to_rgb(other, reading)
        check_decoding(image)
        return _to_rgb(image, reading)
    except (BadImage, MemoryError):
        raise
    except Exception as error:  # a file may be decoded only now
        raise shortage(error) or BadImage(_reason(None, error)) from error


def orientation(image):
    """The EXIF orientation of a `PIL.Image`, a key of UPRIGHT; 1 where it is upright or says none."""
    try:
        found = image.getexif().get(ORIENTATION, 1)
    # Of damaged EXIF data SyntaxError, struct.error and more; it says nothing then, the pixels may be
    # whole.
    except Exception:
        return 1
    return found if isinstance(found, int) and found in UPRIGHT else 1


def _open_at_once(path, flags):
    return os.open(path, flags | os.O_NONBLOCK)


def _to_rgb(image, reading):
    ignores = reading.exif == "ignore"
    stored = _stored_orientation(image) if ignores and image.format == "TIFF" else 1
    rgb = _rgb_as_decoded(image, reading.bits)
    now = orientation(image)  # of a PNG file it may stand behind the pixels
    if ignores:
        method = AS_STORED.get(stored) if now == 1 else None
    else:
        method = UPRIGHT.get(now)
    return rgb if method is None else rgb.transpose(method)


def _stored_orientation(image):
    """Of a TIFF file, which Pillow turns itself, and forgets why, while it decodes it."""
    found, tags = orientation(image), image.tag_v2.tagtype  # which keeps the tags that it has read
    if found != 1 or ORIENTATION not in tags or ORIENTATION in image.getexif():
        return found
    if not image.filename:
        raise BadImage(f"Pillow has turned it upright: {ITS_PATH}")
    with open_image(image.filename) as file:
        return orientation(file)


def _rgb_as_decoded(image, bits):
    if image.mode == "P" and "transparency" in image.info:
        # Straight to RGB, Pillow warns about transparency given as bytes; the colours are the same.
        image = image.convert("RGBA")
    image = with_8_bits(image, bits)
    if image.mode != "RGB":
        return image.convert("RGB")
    image.load()  # `convert` would copy every pixel
    return image


def _reason(path, error):
    if isinstance(error, Image.DecompressionBombError):
        return f"it has more than {MAX_PIXELS:,} pixels, or claims so: make it smaller"
    if isinstance(error, OSError) and error.strerror:
        return error.strerror.lower()
    if path is not None and os.path.getsize(path) == 0:
        return "the file is empty"
    if isinstance(error, Image.UnidentifiedImageError):
        return "it is not an image of a known format and depth: save it as PNG of 8 or 16 bits"
    return (str(error).splitlines() or [type(error).__name__])[0]
