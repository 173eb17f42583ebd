"""Pictures and facts that the benchmarks share."""
import os
import platform

import numpy as np
from PIL import Image, ImageDraw, features

EDGES = 12  # shapes with sharp edges in a picture


def photo(seed, width=500, height=400):
    """A picture that compresses like a photograph: an RGB `PIL.Image`.

    Brightness and colours are noise whose amplitude falls with frequency f as f^-1.2, as in natural
    scenes; on it lie ellipses with sharp edges, and the grain of a sensor.
    """
    rng = np.random.default_rng(seed)
    frequency = np.hypot(np.fft.fftfreq(height)[:, None], np.fft.rfftfreq(width))
    frequency[0, 0] = 1

    def noise():
        spectrum = frequency**-1.2 * np.exp(2j * np.pi * rng.random(frequency.shape))
        field = np.fft.irfft2(spectrum, (height, width))
        return field / field.std()

    brightness = noise()
    pixels = 128 + 48 * np.stack([brightness + 0.3 * noise() for _ in range(3)], axis=-1)
    image = Image.fromarray(np.clip(pixels, 0, 255).astype(np.uint8))
    draw = ImageDraw.Draw(image)
    for _ in range(EDGES):
        left, top = rng.integers(0, width), rng.integers(0, height)
        right, bottom = left + rng.integers(10, 120), top + rng.integers(10, 120)
        box = [int(edge) for edge in (left, top, right, bottom)]
        draw.ellipse(box, fill=tuple(rng.integers(0, 256, 3).tolist()))
    grain = rng.normal(0, 4, (height, width, 1))
    return Image.fromarray(np.clip(np.asarray(image) + grain, 0, 255).astype(np.uint8))


def write_photos(folder, count):
    """Write count JPEG files of quality 75 to 95; returns their sizes in bytes."""
    os.makedirs(folder, exist_ok=True)
    sizes = []
    for i in range(count):
        path = os.path.join(folder, f"{i:06d}.jpg")
        photo(i).save(path, quality=75 + i % 21)
        sizes.append(os.path.getsize(path))
    return sizes


def machine():
    """What a figure depends on: processor, its cores and load, and versions."""
    with open("/proc/cpuinfo") as file:
        models = [line.split(":", 1)[1].strip() for line in file if line.startswith("model name")]
    return {
        "processor": models[0] if models else platform.machine(),
        "cores": os.cpu_count(),
        "load_average": os.getloadavg()[0],
        "python": platform.python_version(),
        "numpy": np.__version__,
        "pillow": Image.__version__,
        "libjpeg_turbo": features.version_feature("libjpeg_turbo"),
    }


def quartiles(values):
    """{"median", "lower_quartile", "upper_quartile"} of some numbers."""
    lower, median, upper = np.percentile(values, [25, 50, 75]).tolist()
    return {"median": median, "lower_quartile": lower, "upper_quartile": upper}
