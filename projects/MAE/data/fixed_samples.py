"""A few samples of a data set, the same ones in every run, to look at."""
import os
from typing import NamedTuple

import numpy as np

from projects.MAE.data.collate import BatchReader
from projects.MAE.data.datasets import files_of
from projects.MAE.data.randomness import MASKING, sample_generator
from projects.MAE.data.sampler import SampleKey
from projects.MAE.errors import UserError


class FixedSamples(NamedTuple):
    """Samples held in memory."""

    labels: list  # a text each
    images: np.ndarray  # float32 [n, C, H, W], normalised
    noise: np.ndarray  # float32 [n, num_patches] in [0, 1), which decides the mask


def fixed_samples(dataset, count):
    """`count` samples spread evenly over a data set for pretraining, with the noise of evaluation.

    Returns:
        `FixedSamples`, labelled with the path below the folder of the data set, and where one of the
        user's own has no paths with their numbers; all of a smaller data set. Images that are skipped
        are left out.

    Raises:
        UserError: an image can't be read, or none can.
    """
    indices = spread(len(dataset), count)
    keys = [SampleKey(epoch=0, index=index, valid=True) for index in indices]
    batch = BatchReader(dataset)(keys)
    skipped = {index for index, _ in batch.get("skipped", ())}
    labels = [_name(dataset, index) for index in indices]
    readable = np.array([index not in skipped for index in indices])
    return _readable(labels, batch["images"], batch["noise"], readable)


def _name(dataset, index):
    if not hasattr(dataset, "path"):
        return f"sample {index}"
    path, images = str(dataset.path(index)), files_of(dataset)
    return os.path.relpath(path, images.root) if images else path


def listed_samples(images, read, count, num_patches, seed):
    """As `fixed_samples`, and of the same files the same, of images that a command line names.

    Args:
        images: an `ImageList`.
        read: its `ImageReader`.
        num_patches: of the model: draws that an image needs.
        seed: of the noise.
    """
    indices = spread(len(images), count)
    batch = read(indices)
    generators = [sample_generator(seed, 0, index, MASKING) for index in indices]
    noise = np.stack([rng.random(num_patches, dtype=np.float32) for rng in generators])
    labels = [images.name(index) for index in indices]
    return _readable(labels, batch["images"], noise, batch["readable"])


def spread(total, count):
    """`count` of the numbers below `total`, or all of them, at even distances from 0 on."""
    count = min(count, total)
    return [i * total // count for i in range(count)]


def _readable(labels, images, noise, readable):
    if not readable.any():
        raise UserError(f"none of these images can be read: {', '.join(labels)}")
    labels = [label for label, good in zip(labels, readable) if good]
    return FixedSamples(labels, images[readable], noise[readable])
