"""RandAugment as the MAE finetuning recipe means it: 'rand-m9-mstd0.5-inc1'.

Cubuk et al. (arXiv 1909.13719), with the 15 operations whose strength grows with the magnitude. An
operation is a function (image, level, fill, rng) -> image; level is magnitude / 10, in [0, 1].
"""
from PIL import Image, ImageEnhance, ImageOps

from projects.MAE.data.transforms import IMAGENET_MEAN

MAX_MAGNITUDE = 10


class RandAugment:
    """Apply `num_layers` random operations to an RGB image.

    Args:
        num_layers: operations drawn, uniformly and with replacement.
        magnitude, magnitude_std: each one's strength ~ Normal(magnitude, std), clipped to [0, 10].
        probability: of applying a drawn operation.
        fill: (red, green, blue), 0 to 255, of pixels that a geometric operation brings in; by default
            the mean colour.
        mean: of pixels scaled to [0, 1], three floats.
    """

    def __init__(
        self,
        num_layers=2,
        magnitude=9,
        magnitude_std=0.5,
        probability=0.5,
        fill=None,
        mean=IMAGENET_MEAN,
    ):
        self.num_layers, self.probability = num_layers, probability
        self.magnitude, self.magnitude_std = magnitude, magnitude_std
        fill = [min(max(round(255 * x), 0), 255) for x in mean] if fill is None else fill
        self.fill = tuple(int(value) for value in fill)

    def __call__(self, image, rng):
        for _ in range(self.num_layers):
            operation = OPERATIONS[rng.integers(len(OPERATIONS))]
            if rng.random() < self.probability:
                magnitude = rng.normal(self.magnitude, self.magnitude_std)
                level = min(max(magnitude, 0), MAX_MAGNITUDE) / MAX_MAGNITUDE
                image = operation(image, level, self.fill, rng)
        return image


def _sign(rng):
    return 1 if rng.random() < 0.5 else -1


def auto_contrast(image, level, fill, rng):
    return ImageOps.autocontrast(image)


def equalize(image, level, fill, rng):
    return ImageOps.equalize(image)


def invert(image, level, fill, rng):
    return ImageOps.invert(image)


def posterize(image, level, fill, rng):
    """Keep 4 bits at level 0, none at level 1."""
    return ImageOps.posterize(image, 4 - int(level * 4))


def solarize(image, level, fill, rng):
    """Invert pixels at or above a threshold: none at level 0, all at level 1."""
    return ImageOps.solarize(image, 256 - min(256, int(level * 256)))


def solarize_add(image, level, fill, rng):
    """Brighten the darker half of the range by up to 110."""
    added = int(level * 110)
    table = [min(255, value + added) if value < 128 else value for value in range(256)]
    return image.point(table * 3)


def _enhance(enhancer):
    """0.9 * level more or less than the image's own, never below 0.1."""

    def operation(image, level, fill, rng):
        return enhancer(image).enhance(max(0.1, 1 + _sign(rng) * 0.9 * level))

    operation.__name__ = enhancer.__name__.lower()
    return operation


def rotate(image, level, fill, rng):
    """By up to 30 degrees either way."""
    return image.rotate(_sign(rng) * 30 * level, resample=Image.BICUBIC, fillcolor=fill)


def _affine(image, coefficients, fill):
    return image.transform(image.size, Image.AFFINE, coefficients, Image.BICUBIC, fillcolor=fill)


def shear_x(image, level, fill, rng):
    return _affine(image, (1, _sign(rng) * 0.3 * level, 0, 0, 1, 0), fill)


def shear_y(image, level, fill, rng):
    return _affine(image, (1, 0, 0, _sign(rng) * 0.3 * level, 1, 0), fill)


def translate_x(image, level, fill, rng):
    """By up to 0.45 of the width either way."""
    return _affine(image, (1, 0, _sign(rng) * 0.45 * level * image.width, 0, 1, 0), fill)


def translate_y(image, level, fill, rng):
    """By up to 0.45 of the height either way."""
    return _affine(image, (1, 0, 0, 0, 1, _sign(rng) * 0.45 * level * image.height), fill)


OPERATIONS = (
    auto_contrast,
    equalize,
    invert,
    rotate,
    posterize,
    solarize,
    solarize_add,
    _enhance(ImageEnhance.Color),
    _enhance(ImageEnhance.Contrast),
    _enhance(ImageEnhance.Brightness),
    _enhance(ImageEnhance.Sharpness),
    shear_x,
    shear_y,
    translate_x,
    translate_y,
)
