"""Draws a labelled grid of images: rows of a kind, columns of a sample, and a caption.

Pillow's own font, the only one that is there on every machine, has the letters of English and no
accents. What it has not is written as Python would escape it, so that a name can still be told.
"""
import io
import math

import numpy as np
from PIL import Image, ImageDraw, ImageFont
from PIL.PngImagePlugin import PngInfo

from projects.MAE.utils.disk import replaced

MIN_SIDE = 96  # pixels; smaller images are enlarged, pixel by pixel, so that one sees them
GAP = 4
MARGIN = 12
FONT_SIZE = 13
LINE = 18
NO_CHARACTER = "\uffff"  # Unicode has none here, so any font draws its sign for a missing glyph
BACKGROUND, INK, FAINT = (255, 255, 255), (20, 20, 20), (100, 100, 100)


def draw_grid(rows, column_labels, caption, per_band=8):
    """Draw images as a grid. More columns than fit side by side go on in another band below.

    Args:
        rows: {label: uint8 [N, H, W, 3]}, all of one shape, from the top.
        column_labels: N texts; one too long for its column loses its middle, see `shortened`.
        caption: lines of text to stand below the grid; they are wrapped where they are too long.
        per_band: columns side by side.

    Returns:
        A `PIL.Image` of mode RGB. `info["Description"]` is the caption and the labels, whole and in
        their own letters.
    """
    font = ImageFont.load_default(FONT_SIZE)
    count, height, width, _ = next(iter(rows.values())).shape
    factor = math.ceil(MIN_SIDE / min(height, width))  # 1 from MIN_SIDE on
    height, width = height * factor, width * factor
    columns = min(count, per_band)
    bands = math.ceil(count / per_band)
    left = MARGIN + math.ceil(max(font.getlength(label) for label in rows)) + MARGIN
    right = left + columns * (width + GAP) - GAP
    band_height = LINE + len(rows) * (height + GAP) + MARGIN
    # A narrow grid must not squeeze its caption.
    canvas_width = max(right + MARGIN, 560)
    room = canvas_width - 2 * MARGIN
    lines = [part for line in caption for part in wrapped("".join(drawable(line, font)), font, room)]
    size = canvas_width, MARGIN + bands * band_height + LINE * len(lines) + MARGIN
    canvas = Image.new("RGB", size, BACKGROUND)
    draw = ImageDraw.Draw(canvas)
    for sample in range(count):
        band, column = divmod(sample, per_band)
        x, y = left + column * (width + GAP), MARGIN + band * band_height
        text = shortened(drawable(column_labels[sample], font), font, width)
        draw.text((x + width / 2, y + LINE / 2), text, FAINT, font, anchor="mm")
        for row, (label, images) in enumerate(rows.items()):
            top = y + LINE + row * (height + GAP)
            tile = Image.fromarray(np.ascontiguousarray(images[sample]))
            canvas.paste(tile.resize((width, height), Image.NEAREST), (x, top))
            if column == 0:
                draw.text((left - MARGIN, top + height / 2), label, INK, font, anchor="rm")
    for i, line in enumerate(lines):
        draw.text((MARGIN, MARGIN + bands * band_height + LINE * i), line, INK, font)
    told = "\n".join([*caption, f"Images: {', '.join(column_labels)}."])
    # A name on the disk may hold bytes that are no text.
    canvas.info["Description"] = told.encode("utf-8", "backslashreplace").decode()
    return canvas


def drawable(text, font):
    """What to draw for each character of a text: itself, or "\\xe9", "\\u4e2d" where the font lacks it."""
    missing = _glyph(NO_CHARACTER, font)
    return [c if _glyph(c, font) != missing else c.encode("unicode_escape").decode() for c in text]


def _glyph(character, font):
    mask = font.getmask(character)
    return mask.size, bytes(mask)


def wrapped(text, font, width):
    """The lines of a text, each at most `width` pixels wide; a longer word, a path say, is broken."""
    lines = [""]
    for word in text.split():
        joined = f"{lines[-1]} {word}".lstrip()
        if font.getlength(joined) <= width:
            lines[-1] = joined
            continue
        lines.append(word)
        while font.getlength(last := lines[-1]) > width:
            fits = _last_that(lambda n: font.getlength(last[:n]) <= width, 1, len(last) - 1)
            lines[-1:] = [last[:fits], last[fits:]]
    return [line for line in lines if line]


def shortened(pieces, font, width):
    """Pieces of a text without as many of the middle as makes it `width` pixels wide; two stay."""
    whole = "".join(pieces)
    if font.getlength(whole) <= width or len(pieces) <= 2:
        return whole

    def keeping(count):
        return "".join([*pieces[: count // 2], "...", *pieces[len(pieces) - (count + 1) // 2 :]])

    return keeping(_last_that(lambda n: font.getlength(keeping(n)) <= width, 2, len(pieces) - 1))


def _last_that(fits, low, high):
    """The largest of low, ..., high that fits, where all below one that fits do; low if none does."""
    while low < high:
        middle = (low + high + 1) // 2
        low, high = (middle, high) if fits(middle) else (low, middle - 1)
    return low


def save_png(image, path):
    """Write a `PIL.Image` and its description as PNG, whole or not at all; OSError if not."""
    text = PngInfo()
    text.add_itxt("Description", image.info["Description"])
    content = io.BytesIO()  # Pillow itself keeps to itself why a disk refuses it
    image.save(content, format="PNG", pnginfo=text)
    with replaced(path, f"{path}.partial") as beside, open(beside, "wb") as file:
        file.write(content.getbuffer())
