"""A data set of a user's own that never gives one of its samples, on the rank that has it."""
import time

from projects.MAE.data.datasets import PretrainingDataset


class SleepingDataset(PretrainingDataset):
    """Sleeps over one sample, from its second epoch on."""

    def __getitem__(self, key):
        if key.index == 7 and key.epoch == 1:
            self.sleep_for_ever()
        return super().__getitem__(key)

    def sleep_for_ever(self):
        while True:
            time.sleep(60)
