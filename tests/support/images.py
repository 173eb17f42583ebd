"""Makes image files, good and odd ones, as bytes."""
import io
import struct
import zlib

import numpy as np
from PIL import Image


def pixels(height=12, width=16, channels=3, seed=0, dtype=np.uint8):
    """Noise, [height, width, channels] or [height, width], over the whole range of dtype."""
    shape = (height, width, channels) if channels > 1 else (height, width)
    return np.random.default_rng(seed).integers(0, np.iinfo(dtype).max, shape, dtype, endpoint=True)


def encode(image, kind, **options):
    """A `PIL.Image`, or an array of pixels, as the bytes of a file."""
    image = image if isinstance(image, Image.Image) else Image.fromarray(image)
    file = io.BytesIO()
    image.save(file, kind, **options)
    return file.getvalue()


def png(width, height, bits, colour_type, rows, *chunks):
    """A PNG file made by hand, for what Pillow doesn't write.

    Args:
        bits, colour_type: as in the header (0 grey, 2 RGB, 3 palette, 4 grey and alpha, 6 RGBA).
        rows: bytes of all rows, without filter bytes; may be fewer than the header says.
        chunks: (name, content) of those before the pixels.
    """
    stride = -(-width * bits * {0: 1, 2: 3, 3: 1, 4: 2, 6: 4}[colour_type] // 8)
    filtered = b"".join(b"\0" + rows[i : i + stride] for i in range(0, len(rows), stride))
    header = struct.pack(">IIBBBBB", width, height, bits, colour_type, 0, 0, 0)
    parts = [(b"IHDR", header), *chunks, (b"IDAT", zlib.compress(filtered)), (b"IEND", b"")]
    return b"\x89PNG\r\n\x1a\n" + b"".join(
        struct.pack(">I", len(content)) + name + content + struct.pack(">I", zlib.crc32(name + content))
        for name, content in parts
    )


def write(folder, name, content=None):
    """Write a file, with its folders; a small noisy PNG that differs from name to name by default."""
    path = folder / name
    path.parent.mkdir(parents=True, exist_ok=True)
    if content is None:
        content = encode(pixels(seed=zlib.crc32(name.encode())), "PNG")
    path.write_bytes(content)
    return path
