"""What is said at the start of images: those taken, those left out, and the odd ones among them."""
import contextlib
import sys
import time
from typing import NamedTuple

from projects.MAE.data.deep_pixels import LARGEST, BadImage, is_wide
from projects.MAE.data.fixed_samples import spread
from projects.MAE.data.image_file import (
    Reading,
    open_image,
    orientation,
    read_image,
    told_reading,
)
from projects.MAE.data.image_list import ImageReader
from projects.MAE.errors import printable

LOOKED_AT = 500  # images, spread evenly over all
SECONDS = 2  # of looking, on a slow disk
DECODED = 16  # images of more than 8 bits, to see how many of them they use
NAMED = 8  # kinds of files in a line
USUAL_BITS = (8, 10, 12, 14)  # of cameras and scanners that write files of 16
UNTOLD = "left as stored, as the weights don't say (--exif apply: turned upright)"
TRANSPARENT = ("RGBA", "LA", "PA", "RGBa", "La")


class Found(NamedTuple):
    """What was seen in some of the images of a data set."""

    looked_at: int
    turned: int  # images with an EXIF orientation
    transparent: int
    largest: tuple  # `LARGEST` of files of 16 bits, without those that say how many they use


def look(images):
    """`Found` in images with `path(index)`: their headers, and the pixels of a few wide ones."""
    began, looked_at, turned, transparent, wide = time.monotonic(), 0, 0, 0, []
    for index in spread(len(images), LOOKED_AT):
        if time.monotonic() - began > SECONDS:
            break
        looked_at += 1
        try:
            with open_image(images.path(index)) as image:
                transparent += image.mode in TRANSPARENT or "transparency" in image.info
                if is_wide(image):
                    wide.append(images.path(index))
                turned += orientation(image) != 1  # which may decode it
        except (BadImage, MemoryError):
            continue  # whoever reads it says so, or skips it
    some = [wide[i] for i in spread(len(wide), DECODED)]
    return Found(looked_at, turned, transparent, tuple(filter(None, map(_largest, some))))


def _largest(path):
    """`LARGEST` of an image's file, or None."""
    with contextlib.suppress(BadImage, MemoryError):
        return read_image(path).info.get(LARGEST)


def describe(images, reading, found, key="data.exif=", left="left as stored"):
    """The line about images with taken and left_out, see `ImageIndex`.

    Args:
        found: see `look`.
        key, left: what sets reading.exif; words for what "ignore" does.
    """
    said = [f"{len(images):,} images taken ({_counts(images.taken)})"]
    if images.left_out:
        said.append(f"left out: {_counts(images.left_out)}")
    some = "" if found.looked_at == len(images) else f" of {found.looked_at:,} looked at"
    if found.turned:
        done = f"turned upright ({key}ignore: not)" if reading.exif == "apply" else left
        said.append(f"with an EXIF rotation, {done}: {found.turned:,}{some}")
    if found.transparent:
        said.append(f"with transparency, which is dropped: {found.transparent:,}{some}")
    return printable("; ".join(said))


def narrow(reading, largest, way_out="data.bits="):
    """The warning that files of 16 bits hold fewer; None where none does, or the bits were given.

    Args:
        largest: `LARGEST` of each file.
    """
    dark = [(value, shade) for value, shade in largest if not value >> USUAL_BITS[-1]]
    if not dark or reading.bits not in (None, 16):
        return None
    most, shades = max(dark)[0], " or ".join(sorted({shade for _, shade in dark}))
    bits = next(b for b in USUAL_BITS if not most >> b)
    if len(dark) == len(largest):
        return (
            f"files of 16 bits hold no value above {most:,} in the images looked at, so they "
            f"become nearly {shades}: if they hold {bits} bits, set {way_out}{bits}"
        )
    if bits > 12:
        return None  # dim ones, as there are among all photographs
    return (
        f"{len(dark)} of {len(largest)} files of 16 bits that were looked at hold no value above "
        f"{most:,}, others up to {max(largest)[0]:,}: if those hold {bits} bits, they become nearly "
        f"{shades}: keep them apart, with {way_out}{bits}"
    )


def reader_of(saved, images, args):
    """The `ImageReader` of a command for an `ImageList`; says on stderr what is odd about its images.

    Args:
        saved: a `SavedModel`, whose card may say how files become pixels.
        args: with on_error, and exif and bits that win where they are given.
    """
    reading = reading_of(saved, args.exif, args.bits)
    found = look(images)
    warning = narrow(reading, found.largest, "--bits ")
    kept = [] if args.exif or saved.facts.get("exif") else [UNTOLD]
    if images.left_out or found.turned:
        print(describe(images, reading, found, "--exif ", *kept), file=sys.stderr)
    if warning:
        print(f"warning: {warning}", file=sys.stderr)
    transform, size = saved.preprocessing.transform(), saved.sizes.img_size
    return ImageReader(images, transform, size, args.on_error == "skip", reading)


def reading_of(saved, exif=None, bits=None):
    """The `Reading` for a `SavedModel`: as given, else as in its training, else as stored."""
    told = told_reading(saved.facts)
    return Reading(exif or told.exif, bits or told.bits)


def _counts(counts):
    """{".jpg": 3, ...} in words, the most first."""
    ordered = sorted(counts.items(), key=lambda item: (-item[1], item[0]))
    said = [f"{number:,} {name}" for name, number in ordered[:NAMED]]
    rest = sum(number for _, number in ordered[NAMED:])
    return ", ".join([*said, f"{rest:,} others"] if rest else said)
