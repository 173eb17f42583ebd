"""Data sets of a user's own that never give one of their samples, on the rank that has it."""
import time

from projects.MAE.data.datasets import ClassificationDataset, PretrainingDataset


class Sleeping:
    """Sleeps over one sample: in training from its second epoch on."""

    def __getitem__(self, key):
        if key.index == 7 and (key.epoch == 1 or not self.train):
            self.sleep_for_ever()
        return super().__getitem__(key)

    def sleep_for_ever(self):
        print("asleep", flush=True)
        while True:
            time.sleep(60)


class SleepingDataset(Sleeping, PretrainingDataset):
    """Of images alone."""


class SleepingClassification(Sleeping, ClassificationDataset):
    """Of images and labels."""
