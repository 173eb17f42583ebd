"""A data set of a user's own that fails in the middle of a run, on the rank that has the sample."""
from projects.MAE.data.datasets import PretrainingDataset


class FailingDataset(PretrainingDataset):
    """Raises an exception that is no `UserError` for one sample, from its second epoch on."""

    def __getitem__(self, key):
        if key.index == 7 and key.epoch == 1:
            raise ValueError("the label\nis no number")
        return super().__getitem__(key)
