"""What Pillow decodes to other pixels than a file has: more than 8 bits a colour, signs, white as zero.

It keeps the high byte of colours, cuts grey off at 255, and takes some TIFF files apart wrongly. Here
the values are read as the file has them, or the image is refused.
"""
import contextlib
import sys

import numpy as np
from PIL import Image, TiffImagePlugin

# Layouts that Pillow's table of TIFF files lacks and its decoders have: byte order, white as zero (0)
# or black, unsigned, most significant bit first, bits of a pixel -> mode, decoder.
for _key, _value in {
    (b"II", 0, (1,), 1, (12,), ()): ("I;16", "I;12"),
    (b"MM", 0, (1,), 1, (12,), ()): ("I;16", "I;12"),
    (b"MM", 1, (1,), 1, (12,), ()): ("I;16", "I;12"),
    (b"MM", 0, (1,), 1, (16,), ()): ("I;16B", "I;16B"),
}.items():
    TiffImagePlugin.OPEN_INFO.setdefault(_key, _value)

BITS_PER_SAMPLE, COMPRESSION, PHOTOMETRIC, PLANAR, SAMPLE_FORMAT = 258, 259, 262, 284, 339  # tags of TIFF
# In the `info` of an image of 8 bits that had 16: (no value was larger, what 0 looks like); nothing
# where the file says how many bits it uses, or all are 0.
LARGEST = "largest of 16 bits"
NO_RANGE = "its pixels are numbers of no known range (32 bits, or with a sign): save it with 8 or 16"
ITS_PATH = "give the path of its file"


class BadImage(Exception):
    """A file that holds no image that can be read; the message says why, without the path."""


def is_wide(image):
    """Whether an image that is not decoded yet, or grey, has more than 8 bits a colour."""
    return image.mode[0] in "IF" or ";16" in _decoder(image) or _ppm_maximum(image) > 255


def is_lost_once_decoded(image, bits):
    """Whether an image must be opened again to be read, as Pillow would cut or misread it for good."""
    if image.format not in ("PNG", "TIFF") or not image.tile or image.mode[0] in "IF":
        return False
    return _tag(image, PLANAR) == 2 or (bits or 16) < 16 and is_wide(image)


def with_8_bits(image, bits):
    """An image of 8 bits a colour, with what it was in `info[LARGEST]`; one that has 8 is unchanged.

    Args:
        bits: that are used of 16, 8 to 16; None for all of them.

    Raises:
        BadImage: it has larger values, or Pillow has decoded it already and cut them.
    """
    bits = bits or 16
    if image.mode[0] in "IF" or bits < 16 and is_wide(image):
        return _high_bits(image, bits)
    if is_wide(image):
        image.load()
        image.info[LARGEST] = _largest_of_high_bytes(image)
    elif bits < 16:
        _check_decoded(image, bits)
    return image


def check_decoding(image):
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


@contextlib.contextmanager
def opened_again(image):
    """The file of an image that is not decoded yet, at the same frame; the image stays so."""
    file = image.fp
    place = file.tell()
    file.seek(0)
    try:
        other = Image.open(file, formats=(image.format,))
        if image.tell():
            other.seek(image.tell())
        check_decoding(other)
        yield other
    finally:
        file.seek(place)


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
    with opened_again(image) as other:
        if mode:
            other._mode = mode
        other.tile = [_unpacked_by(tile, name_of) for tile in other.tile]
        return np.asarray(other)


def _unpacked_by(tile, name_of):
    arguments = tile[3]
    if isinstance(arguments, str):
        named = name_of(arguments)
    else:
        named = (name_of(arguments[0]), *arguments[1:])
    is_named_tuple = hasattr(tile, "_replace")  # since Pillow 11
    return tile._replace(args=named) if is_named_tuple else (*tile[:3], named)


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


def _largest_of_high_bytes(image):
    """`LARGEST` of values of 16 bits, whose high bytes are the colours of an image."""
    colours = {"LA": 1, "CMYK": 4}.get(image.mode, 3)
    largest = int(np.asarray(image)[..., :colours].max())
    return largest and (largest << 8 | 255, "white" if colours == 4 else "black")


def _high_bits(image, bits):
    """An image of more bits with 8: the high ones, which is what Pillow keeps of 16-bit colours.

    Pillow's `convert` of grey cuts off at 255 instead, which leaves a white image.
    """
    values, declared = _wide_grey(image) if image.mode[0] in "IF" else (_wide_colours(image), None)
    bits = declared or bits
    largest = int(values.max())
    if largest >> bits:
        raise BadImage(f"it has a value of {largest}, more than data.bits={bits} can hold")
    shade = "black"
    if _tag(image, PHOTOMETRIC) == 0:  # white is zero, which Pillow heeds at 8 bits only
        values, shade = (1 << bits) - 1 - values, "white"
    high = Image.fromarray((values >> (bits - 8)).astype(np.uint8))
    high.info[LARGEST] = largest and not declared and (largest, shade)
    return high


def _tag(image, number):
    return getattr(image, "tag_v2", {}).get(number)
