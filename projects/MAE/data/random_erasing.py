"""Random erasing: a random box of the image becomes noise."""
import math

import numpy as np


class RandomErasing:
    """Replace one box by standard normal noise, pixel by pixel.

    Zhong et al., "Random Erasing Data Augmentation" (arXiv 1708.04896), in the per-pixel form of
    the MAE finetuning recipe. Works on a normalised array, so the noise has the image's statistics.

    Args:
        probability: of erasing anything.
        area: range of the box's area, as a fraction of the image's.
        aspect: range of the box's height / width, drawn log-uniformly.
    """

    def __init__(self, probability=0.25, area=(0.02, 1 / 3), aspect=(0.3, 1 / 0.3)):
        self.probability, self.area, self.aspect = probability, tuple(area), tuple(aspect)

    def __call__(self, array, rng):
        """float32 [C, H, W] -> float32 [C, H, W]; the argument is changed in place."""
        if rng.random() >= self.probability:
            return array
        box = self.sample_box(*array.shape[1:], rng)
        if box is not None:
            top, left, h, w = box
            erased = array[:, top : top + h, left : left + w]
            erased[...] = rng.standard_normal(erased.shape, dtype=np.float32)
        return array

    def sample_box(self, height, width, rng):
        """(top, left, height, width) in pixels, or None when ten tries found no box that fits."""
        log_aspect = math.log(self.aspect[0]), math.log(self.aspect[1])
        for _ in range(10):
            area = height * width * rng.uniform(*self.area)
            aspect = math.exp(rng.uniform(*log_aspect))
            h = round(math.sqrt(area * aspect))
            w = round(math.sqrt(area / aspect))
            if h < height and w < width:
                top = int(rng.integers(0, height - h + 1))
                left = int(rng.integers(0, width - w + 1))
                return top, left, h, w
        return None
