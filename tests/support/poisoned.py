"""Data sets in which one image makes every loss NaN: what a broken file may do."""
import numpy as np

from projects.MAE.data.datasets import ClassificationDataset, PretrainingDataset

POISONED = 7  # the image's index


class _Poisoned:
    def __getitem__(self, key):
        sample = super().__getitem__(key)
        if key.index == POISONED:
            sample["images"] = np.full_like(sample["images"], np.nan)
        return sample


class PoisonedDataset(_Poisoned, PretrainingDataset):
    pass


class PoisonedClassification(_Poisoned, ClassificationDataset):
    pass
