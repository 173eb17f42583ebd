"""Where every random number of the data pipeline comes from.

No function here touches global random state: a generator is a pure function of its arguments, so
a sample looks the same on any rank, in any worker process, before and after a restart.
"""
import numpy as np

# One integer a purpose: draws of one purpose never shift those of another. The numbers are part of
# what makes a run repeatable, so a new stream takes a new number and none is ever reused.
AUGMENTATION = 0  # of one sample: crop, flip, RandAugment, erasing
MASKING = 1  # of one sample: the noise that decides which patches are masked
DROP_PATH = 2  # of one sample: which residual branches are dropped
MIXING = 3  # of one pair of samples, drawn for its first: mixup's and CutMix's lambda and box
PERMUTATION = 4  # of one epoch: the order of the samples


def _generator(seed, stream, *position):
    # The stream leads the spawn key, so no two purposes ever share a generator.
    sequence = np.random.SeedSequence(seed, spawn_key=(stream, *position))
    return np.random.Generator(np.random.PCG64(sequence))


def sample_generator(seed, epoch, index, stream):
    """A fresh generator for one purpose of one sample, which is not PERMUTATION, in one epoch."""
    return _generator(seed, stream, epoch, index)


def epoch_permutation(seed, epoch, n):
    """The order of the `n` samples in an epoch, int64 [n]."""
    return _generator(seed, PERMUTATION, epoch).permutation(n)
