"""From the keys of a batch to its arrays. Worker processes run this: no OneFlow here."""
from collections.abc import Mapping

import numpy as np

from projects.MAE.data.datasets import classes_of
from projects.MAE.data.randomness import MIXING, sample_generator
from projects.MAE.data.shared_arrays import SharedArrays
from projects.MAE.errors import UserError, raised_by


class BatchReader:
    """Reads the samples of a list of keys and stacks them.

    Args:
        dataset: gives the arrays of a `SampleKey`, as {field: array}.
        evaluates: mark rows that only fill up a batch: "valid" False, a label -1.
        mixup: None or a `Mixup`.
        seed: the run's seed, for mixup.
    """

    def __init__(self, dataset, mixup=None, seed=0, evaluates=False):
        self.dataset, self.mixup, self.seed, self.evaluates = dataset, mixup, seed, evaluates
        self._num_classes = len(classes_of(dataset))

    def __call__(self, keys):
        """[SampleKey] -> {field: array [n, ...]}; a UserError for any exception of the data set.

        Where images were skipped, "skipped" is a list of (index, why it can't be read).
        """
        skipped = []
        batch = SharedArrays.stack(len(keys), (self._sample(key, skipped) for key in keys))
        if self.mixup is not None:
            rngs = [sample_generator(self.seed, k.epoch, k.index, MIXING) for k in keys[::2]]
            batch["images"], batch["labels"] = self.mixup(batch["images"], batch["labels"], rngs)
        if skipped:
            batch["skipped"] = skipped
        return batch

    def _sample(self, key, skipped):
        try:
            sample = self.dataset[key]
        except UserError:
            raise
        except (Exception, SystemExit) as error:
            raise raised_by(f"sample {key.index} of the data set", error) from error
        if not isinstance(sample, Mapping):
            self._refuse(key, f"is of the type {type(sample).__name__}: give a dict of arrays")
        sample = dict(sample)
        if "skipped" in sample:
            skipped.append(sample.pop("skipped"))
        if self.evaluates:  # a data set of the user's own may not care
            sample.setdefault("valid", key.valid)
            if "labels" in sample and not key.valid:
                sample["labels"] = np.int64(-1)
        found = {field: np.asarray(value) for field, value in sample.items()}
        if "labels" in found and found["labels"].dtype.kind in "iu":
            found["labels"] = found["labels"].astype(np.int64)
            if found.get("valid", key.valid):
                self._check_label(key, found["labels"])
        return found

    def _check_label(self, key, label):
        """Raise a `UserError` for a label that is no place in the data set's classes: OneFlow would
        end the process at it, in training, and an evaluation count it as wrong."""
        if self._num_classes and not 0 <= label.max(initial=-1) < self._num_classes:
            self._refuse(
                key,
                f"has the label {label}, but {self._num_classes} classes: a label is a place in them, "
                f"from 0 to {self._num_classes - 1}",
            )

    def _refuse(self, key, problem):
        name = type(self.dataset).__name__
        raise UserError(f"sample {key.index} of the data set {name} {problem}", local=True)
