"""A few samples of a data set, the same ones in every run, to look at."""
import collections
import os

import numpy as np

from projects.MAE.data.sampler import SampleKey
from projects.MAE.errors import UserError

FixedSamples = collections.namedtuple("FixedSamples", "labels images noise")
FixedSamples.__doc__ = """Samples held in memory.

labels: a text each.
images: float32 [n, 3, H, W], normalised.
noise: float32 [n, num_patches] in [0, 1), which decides the mask.
"""


def fixed_samples(dataset, count):
    """Samples spread evenly over a `PretrainingDataset`, with the noise that evaluation has.

    Args:
        dataset: a data set of validation images, or of others through their transform.
        count: how many; a smaller data set gives all that it has.

    Returns:
        `FixedSamples`, labelled with the path below the folder of the data set. Images that are
        skipped (see `PretrainingDataset`) are left out.

    Raises:
        UserError: an image can't be read, or none can.
    """
    count = min(count, len(dataset))
    indices = [i * len(dataset) // count for i in range(count)]
    samples = [(i, dataset[SampleKey(epoch=0, index=i, step=0, valid=True)]) for i in indices]
    samples = [(i, sample) for i, sample in samples if sample.get("valid", True)]
    if not samples:
        raise UserError(f"{dataset.images.root}: none of {count} images can be read")
    return FixedSamples(
        [os.path.relpath(dataset.images.path(i), dataset.images.root) for i, _ in samples],
        np.stack([sample["images"] for _, sample in samples]),
        np.stack([sample["noise"] for _, sample in samples]),
    )
