"""From the keys of a batch to its arrays. Worker processes run this: no OneFlow here."""
from projects.MAE.data.randomness import MIXING, sample_generator
from projects.MAE.data.shared_arrays import SharedArrays


class BatchReader:
    """Reads the samples of a list of keys and stacks them.

    Args:
        dataset: gives the arrays of a `SampleKey`, as {field: array}.
        mixup: None or a `Mixup`.
        seed: the run's seed, for mixup.
    """

    def __init__(self, dataset, mixup=None, seed=0):
        self.dataset, self.mixup, self.seed = dataset, mixup, seed

    def __call__(self, keys):
        """[SampleKey] -> {field: array [n, ...]}."""
        batch = SharedArrays.stack(len(keys), (self.dataset[key] for key in keys))
        if self.mixup is not None:
            rngs = [sample_generator(self.seed, k.epoch, k.index, MIXING) for k in keys[::2]]
            batch["images"], batch["labels"] = self.mixup(batch["images"], batch["labels"], rngs)
        return batch
