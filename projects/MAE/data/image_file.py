"""One image file to RGB pixels: what is read, how odd images become RGB, and what is refused.

Pixels are those of Pillow's `convert("RGB")`, which the authors' pipeline and torchvision's
ImageFolder use: transparency is dropped. Where that conversion loses the image (more than 8 bits a
colour, white as zero) this module differs, and it turns images as their EXIF orientation says, as
people see them; with `exif="ignore"` they lie as they were stored, as the authors' do.
"""
import contextlib
import math
import os
import stat
import sys
import warnings
from typing import NamedTuple

import numpy as np
from PIL import Image, TiffImagePlugin

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


# Layouts that Pillow's table of TIFF files lacks and its decoders have: byte order, white as zero (0)
# or black, unsigned, most significant bit first, bits of a pixel -> mode, decoder.
for _key, _value in {
    (b"II", 0, (1,), 1, (12,), ()): ("I;16", "I;12"),
    (b"MM", 0, (1,), 1, (12,), ()): ("I;16", "I;12"),
    (b"MM", 1, (1,), 1, (12,), ()): ("I;16", "I;12"),
    (b"MM", 0, (1,), 1, (16,), ()): ("I;16B", "I;16B"),
}.items():
    TiffImagePlugin.OPEN_INFO.setdefault(_key, _value)

# Tags of EXIF and TIFF.
ORIENTATION, BITS_PER_SAMPLE, COMPRESSION, PHOTOMETRIC = 0x0112, 258, 259, 262
PLANAR, SAMPLE_FORMAT = 284, 339
# In the `info` of an image of 8 bits that had 16: no value was larger; 0 where the file says how many
# bits it uses.
LARGEST = "largest of 16 bits"
NO_RANGE = "its pixels are numbers of no known range (32 bits, or with a sign): save it with 8 or 16"
ITS_PATH = "give the path of its file"
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


class BadImage(Exception):
    """A file that holds no image that can be read; the message says why, without the path."""


class Reading(NamedTuple):
    """How files become pixels: the settings data.exif and data.bits."""

    exif: str = "apply"  # the EXIF orientation; or "ignore"
    bits: int = None  # that are used of files of 16 bits a colour, 8 to 16; all of them by default

    def __str__(self):
        return f"data.exif={self.exif} data.bits={self.bits or 16}"


def told_reading(told, otherwise=Reading()):
    """The `Reading` of a model card or of facts, {"exif", "bits": value}; what they don't say is
    that of `otherwise`."""
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
                _check_decoding(image)
                yield image
    except (BadImage, MemoryError):
        raise
    # Pillow's decoders raise OSError, SyntaxError, ValueError, struct.error and more.
    except Exception as error:
        raise BadImage(_reason(path, error)) from error


def to_rgb(image, reading=Reading()):
    """A `PIL.Image` as `read_image` gives the file that it came from; errors as there.

    One that Pillow would cut to 8 bits or misread stays undecoded, to give the same another time.
    """
    try:
        if _is_lost_once_decoded(image, reading.bits):
            with _opened_again(image) as other:
                return _to_rgb(other, reading)
        _check_decoding(image)
        return _to_rgb(image, reading)
    except (BadImage, MemoryError):
        raise
    except Exception as error:  # a file may be decoded only now
        raise BadImage(_reason(None, error)) from error


def _is_lost_once_decoded(image, bits):
    if image.format not in ("PNG", "TIFF") or not image.tile or image.mode[0] in "IF":
        return False
    return _tag(image, PLANAR) == 2 or (bits or 16) < 16 and is_wide(image)


def orientation(image):
    """The EXIF orientation of a `PIL.Image`, a key of UPRIGHT; 1 where it is upright or says none."""
    try:
        found = image.getexif().get(ORIENTATION, 1)
    # Of damaged EXIF data SyntaxError, struct.error and more; it says nothing then, the pixels may be
    # whole.
    except Exception:
        return 1
    return found if isinstance(found, int) and found in UPRIGHT else 1


def is_wide(image):
    """Whether an image that is not decoded yet, or grey, has more than 8 bits a colour."""
    return image.mode[0] in "IF" or ";16" in _decoder(image) or _ppm_maximum(image) > 255


def _wide_grey(image):
    """The values of a grey image of more than 8 bits, and how many bits its file says they have.

    Returns:
        uint16 [H, W], 0 being black or, where the file says so, white; and a number, None where the
        file only says how many bits it has room for.

    Raises:
        BadImage: of no known range.
    """
    # "I" has 32 bits; what Pillow decodes to it from these two formats has 16.
    if not (image.mode.startswith("I;16") or image.mode == "I" and image.format in ("PNG", "PPM")):
        raise BadImage(NO_RANGE)
    declared = 12 if _tag(image, BITS_PER_SAMPLE) in (12, (12,)) else None
    if 255 < _ppm_maximum(image) < 65535:
        declared = 16  # Pillow scales it by the largest value that its header tells
    return np.asarray(image).astype(np.uint16), declared


def _tiles(image):
    """What is still to be decoded of an image; one that was made of another has no such list."""
    return getattr(image, "tile", [])


def _decoder(image):
    """The name of what unpacks an image's pixels, "" where that is done."""
    tiles = _tiles(image)
    arguments = tiles[0][3] if tiles else ""
    return str(arguments if isinstance(arguments, str) else arguments[0])


def _ppm_maximum(image):
    """The largest value that a PPM file's header allows, 0 of others and of one that is decoded."""
    if image.format != "PPM" or not _tiles(image):
        return 0
    arguments = image.tile[0][3]
    if isinstance(arguments, str):
        return 65535 if ";16" in arguments else 255
    return arguments[-1] if isinstance(arguments[-1], int) else 0


def _wide_colours(image):
    """Colours of 16 bits, or grey beside transparency: uint16 [H, W, 3] or [H, W].

    Pillow keeps one byte of each, the high one; and the low one where it is told the other order of
    bytes.
    """
    decoder = _decoder(image)
    if decoder == "LA;16B":  # both as one number of 32 bits
        pairs = _decoded_by(image, lambda name: "I;32B", mode="I")
        image.load()
        return (pairs >> 16).astype(np.uint16)
    # Compressed planes are unpacked by libtiff, whatever it is told.
    in_planes = _tag(image, PLANAR) == 2 and image.tile[0][0] == "libtiff"
    if in_planes or not decoder.startswith(("RGB;", "RGBA;", "RGBX;", "R;")):
        what = f"{decoder}, compressed in planes" if in_planes else decoder
        raise BadImage(f"data.bits is for 16 bits of grey or RGB, not for {what}: save it so")
    native = "B" if sys.byteorder == "big" else "L"
    order = "L" if (decoder[-1] if decoder[-1] in "BL" else native) == "B" else "B"
    low = _decoded_by(image, lambda name: name[:-1] + order)
    high, low = (x[:, :, :3].astype(np.uint16) for x in (np.asarray(image), low))
    return high << 8 | low


def _decoded_by(image, name_of, mode=None):
    """An image that is not decoded yet as an array, by decoders of other names."""
    with _opened_again(image) as other:
        if mode:
            other._mode = mode
        other.tile = [_unpacked_by(tile, name_of) for tile in other.tile]
        return np.asarray(other)


@contextlib.contextmanager
def _opened_again(image):
    """The file of an image that is not decoded yet, at the same frame; the image stays so."""
    file = image.fp
    place = file.tell()
    file.seek(0)
    try:
        other = Image.open(file, formats=(image.format,))
        if image.tell():
            other.seek(image.tell())
        _check_decoding(other)
        yield other
    finally:
        file.seek(place)


def _unpacked_by(tile, name_of):
    arguments = tile[3]
    if isinstance(arguments, str):
        named = name_of(arguments)
    else:
        named = (name_of(arguments[0]), *arguments[1:])
    is_named_tuple = hasattr(tile, "_replace")  # since Pillow 11
    return tile._replace(args=named) if is_named_tuple else (*tile[:3], named)


def _check_decoding(image):
    """Mend or refuse what Pillow decodes to other pixels than the file has, without a word.

    Of uncompressed TIFF files whose colours of 16 bits lie in planes it takes each byte for a value;
    signed numbers of 8 bits for unsigned ones.

    Raises:
        BadImage: see above, or such a file that is decoded already.
    """
    if image.format != "TIFF":
        return
    signs = _tag(image, SAMPLE_FORMAT)
    if 2 in (signs if isinstance(signs, tuple) else (signs,)) and image.mode[0] not in "IF":
        raise BadImage(NO_RANGE)
    if _tag(image, PLANAR) != 2 or _tag(image, COMPRESSION) != 1 or not _has_16_bits(image):
        return
    if not image.tile:
        what = "its colours of 16 bits lie in planes, which Pillow decodes wrongly"
        raise BadImage(f"{what}: {ITS_PATH}")
    if len(image.mode) != 3:
        raise BadImage(f"16 bits of {image.mode} in planes can't be decoded: save it as RGB")
    order = "L" if image.tag_v2.prefix == b"II" else "B"
    if ";16" not in _decoder(image):
        image.tile = [_unpacked_by(tile, lambda name: f"{name};16{order}") for tile in image.tile]


def _check_decoded(image, bits):
    """Raise a `BadImage` for an image that is decoded, if its values may have had more than 8 bits.

    A PNG file doesn't say so any more; one of 8 bits has larger values than high bytes of `bits`.
    """
    if _tiles(image) or image.mode[0] in "IFP1" or image.format not in ("PNG", "TIFF"):
        return
    values = np.asarray(image)[..., : 1 if image.mode == "LA" else 3]
    is_low = image.format == "PNG" and values.max() < 1 << (bits - 8)
    if is_low or _has_16_bits(image):
        raise BadImage(f"it may have 16 bits a colour, of which Pillow has kept 8: {ITS_PATH}")


def _has_16_bits(image):
    bits = _tag(image, BITS_PER_SAMPLE)
    return 16 in (bits if isinstance(bits, tuple) else (bits,))


def _open_at_once(path, flags):
    return os.open(path, flags | os.O_NONBLOCK)


def _to_rgb(image, reading):
    # Pillow turns a TIFF file itself, while it decodes it.
    stored = orientation(image) if image.format == "TIFF" else 1
    rgb = _rgb_as_decoded(image, reading.bits)
    now = orientation(image)  # of a PNG file it may stand behind the pixels
    if reading.exif == "ignore":
        method = AS_STORED.get(stored) if now == 1 else None
    else:
        method = UPRIGHT.get(now)
    return rgb if method is None else rgb.transpose(method)


def _rgb_as_decoded(image, bits):
    if image.mode == "P" and "transparency" in image.info:
        # Straight to RGB, Pillow warns about transparency given as bytes; the colours are the same.
        image = image.convert("RGBA")
    bits = bits or 16
    if image.mode[0] in "IF" or bits < 16 and is_wide(image):
        image = _high_bits(image, bits)
    elif is_wide(image):
        image.load()
        image.info[LARGEST] = _most_of_high_bytes(image)
    elif bits < 16:
        _check_decoded(image, bits)
    if image.mode != "RGB":
        return image.convert("RGB")
    image.load()  # `convert` would copy every pixel
    return image


def _most_of_high_bytes(image):
    """What values of 16 bits can be at most, whose high bytes are the colours of an image."""
    values = np.asarray(image)
    colours = {"LA": 1, "CMYK": 4}.get(image.mode, 3)
    largest = int(values[..., :colours].max())
    return largest << 8 | 255 if largest else 0


def _high_bits(image, bits):
    """An image of more bits with 8: the high ones, which is what Pillow keeps of 16-bit colours.

    Pillow's `convert` of grey cuts off at 255 instead, which leaves a white image.
    """
    values, declared = _wide_grey(image) if image.mode[0] in "IF" else (_wide_colours(image), None)
    bits = declared or bits
    largest = int(values.max())
    if largest >> bits:
        raise BadImage(f"it has a value of {largest}, more than data.bits={bits} can hold")
    if _tag(image, PHOTOMETRIC) == 0:  # white is zero, which Pillow heeds at 8 bits only
        values = (1 << bits) - 1 - values
    high = Image.fromarray((values >> (bits - 8)).astype(np.uint8))
    high.info[LARGEST] = largest if declared is None else 0
    return high


def _tag(image, number):
    return getattr(image, "tag_v2", {}).get(number)


def _reason(path, error):
    if isinstance(error, Image.DecompressionBombError):
        return f"it has more than {MAX_PIXELS:,} pixels, or claims so: make it smaller"
    if isinstance(error, OSError) and error.strerror:
        return error.strerror.lower()
    if path is not None and os.path.getsize(path) == 0:
        return "the file is empty"
    if isinstance(error, Image.UnidentifiedImageError):
        return "it is not an image of a known format and depth"
    return (str(error).splitlines() or [type(error).__name__])[0]
