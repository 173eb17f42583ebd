"""What happens to an image between the file and the batch.

Every transform is a callable `(x, rng) -> x`: x is an RGB `PIL.Image` up to `ToArray` and a
float32 array [C, H, W] after it; rng is the sample's own `numpy.random.Generator`.
"""
import math

import numpy as np
from PIL import Image, ImageEnhance

from projects.MAE.data import resample

# Of the pixels of ImageNet's training images scaled to [0, 1], in the order red, green, blue.
IMAGENET_MEAN = (0.485, 0.456, 0.406)
IMAGENET_STD = (0.229, 0.224, 0.225)
# Pillow's, at the place of its number, which a preprocessor_config.json has.
FILTERS = ("nearest", "lanczos", "bilinear", "bicubic", "box", "hamming")


class Compose:
    """Apply transforms in order, all drawing from one generator; without one where none draws."""

    def __init__(self, transforms):
        self.transforms = list(transforms)

    def __call__(self, x, rng=None):
        for transform in self.transforms:
            x = transform(x, rng)
        return x


class RandomResizedCrop:
    """Crop a random part of the image and resize it, bicubic, to size x size.

    Szegedy et al., "Going deeper with convolutions" (arXiv 1409.4842), in the form the field uses:
    area uniform, aspect ratio log-uniform, ten tries, then the largest central crop whose
    aspect ratio is allowed.

    Args:
        size: side of the result in pixels.
        scale: range of the crop's area, as a fraction of the image's.
        ratio: range of the crop's width / height.
        clamp: try once, and cut a side that is longer than the image's to its length. So do the
            authors in linear probing (their util/crop.py), after the TPU code that they compare with.
    """

    def __init__(self, size, scale=(0.2, 1.0), ratio=(3 / 4, 4 / 3), clamp=False):
        self.size, self.scale, self.ratio = size, tuple(scale), tuple(ratio)
        self.clamp = clamp

    def __call__(self, image, rng):
        return resample.resize(image, (self.size, self.size), self.sample_box(*image.size, rng))

    def sample_box(self, width, height, rng):
        """(left, top, right, bottom) of the crop, in pixels of a width x height image."""
        log_ratio = math.log(self.ratio[0]), math.log(self.ratio[1])
        for _ in range(10):
            area = width * height * rng.uniform(*self.scale)
            ratio = math.exp(rng.uniform(*log_ratio))
            w = round(math.sqrt(area * ratio))
            h = round(math.sqrt(area / ratio))
            if self.clamp:
                w, h = (min(max(side, 1), most) for side, most in ((w, width), (h, height)))
            if 0 < w <= width and 0 < h <= height:
                left = int(rng.integers(0, width - w + 1))
                top = int(rng.integers(0, height - h + 1))
                return left, top, left + w, top + h
        return self._central_box(width, height)

    def _central_box(self, width, height):
        w, h = width, height
        if width < height * self.ratio[0]:
            h = round(width / self.ratio[0])
        elif width > height * self.ratio[1]:
            w = round(height * self.ratio[1])
        left, top = (width - w) // 2, (height - h) // 2
        return left, top, left + w, top + h


class RandomHorizontalFlip:
    """Mirror the image left to right with probability p."""

    def __init__(self, p=0.5):
        self.p = p

    def __call__(self, image, rng):
        return image.transpose(Image.FLIP_LEFT_RIGHT) if rng.random() < self.p else image


class ColorJitter:
    """Change brightness, contrast and saturation, in random order, each by a factor of its own.

    A factor is uniform in [max(0, 1 - x), 1 + x], as in torchvision. The authors' --color_jitter=x is
    x for all three, and stands in the place of RandAugment: with it, theirs has no effect.
    """

    KINDS = ImageEnhance.Brightness, ImageEnhance.Contrast, ImageEnhance.Color

    def __init__(self, brightness=0.0, contrast=0.0, saturation=0.0):
        self.strengths = brightness, contrast, saturation

    def __call__(self, image, rng):
        for i in rng.permutation(len(self.KINDS)):
            x = self.strengths[i]
            if x:
                image = self.KINDS[i](image).enhance(rng.uniform(max(0.0, 1.0 - x), 1.0 + x))
        return image


def paper_crop_ratio(size):
    """The authors' share of the shorter side in an evaluation on `size` pixels: 224 of 256 up to 224,
    else all of it (their util/datasets.py)."""
    return 0.875 if size <= 224 else 1.0


class Resize:
    """Resize so that a central crop of `size` is `crop_ratio` of the shorter side.

    The ratio None is `paper_crop_ratio`. The shorter side gets int(size / crop_ratio)
    pixels, the longer one is rounded down. Of an image that is very long only the central part is
    resized, as long as 16 of its widths: a line of 20,000 pixels would need 4 GB.

    Args:
        size: in pixels; or [height, width], to which an image of any shape is stretched.
        resample: the filter, one of `FILTERS`.
    """

    LONGEST = 16

    def __init__(self, size, crop_ratio=1.0, resample="bicubic"):
        sides = [size] if isinstance(size, int) else list(size)
        sides = [int(side / (crop_ratio or paper_crop_ratio(side))) for side in sides]
        self.size = sides[0] if isinstance(size, int) else sides
        self.resample = resample

    def __call__(self, image, rng=None):
        if isinstance(self.size, list):
            target = tuple(self.size[::-1])
        else:
            image = self._central_part(image)
            width, height = image.size
            if width <= height:
                target = self.size, int(self.size * height / width)
            else:
                target = int(self.size * width / height), self.size
        if target == image.size:
            return image
        if self.resample == "bicubic":
            return resample.resize(image, target)
        return image.resize(target, FILTERS.index(self.resample))

    def _central_part(self, image):
        limit = self.LONGEST * min(image.size)
        if max(image.size) <= limit:
            return image
        width, height = (min(length, limit) for length in image.size)
        left, top = (image.width - width) // 2, (image.height - height) // 2
        return image.crop((left, top, left + width, top + height))


class CenterCrop:
    """The central size x size pixels; an image smaller than that is padded with black."""

    def __init__(self, size):
        self.size = size

    def __call__(self, image, rng=None):
        # Half pixels go to the even neighbour, as in the pipeline of the published accuracies.
        left = round((image.width - self.size) / 2)
        top = round((image.height - self.size) / 2)
        return image.crop((left, top, left + self.size, top + self.size))


class ToArray:
    """RGB image of 8 bits -> float32 [3, H, W]: (pixel / 255 - mean) / std, for each colour."""

    def __init__(self, mean=IMAGENET_MEAN, std=IMAGENET_STD):
        mean, std = np.array(list(mean)), np.array(list(std))
        self._scale = (1 / (255 * std)).astype(np.float32)
        self._bias = (-mean / std).astype(np.float32)
        resample.prepare()  # every pipeline ends here; a worker's log nobody sees

    def __call__(self, image, rng=None):
        return resample.normalise(image, self._scale, self._bias)

    def to_pixels(self, images):
        """The inverse, to look at: float32 [N, 3, H, W] -> uint8 [N, H, W, 3], cut off at 0 and 255."""
        pixels = (np.moveaxis(images, 1, -1) - self._bias) / self._scale
        return np.clip(np.round(pixels), 0, 255).astype(np.uint8)
