"""Which samples make up the batch of a step, and which of its rows belong to a rank."""
from typing import NamedTuple

from projects.MAE.data.randomness import epoch_permutation
from projects.MAE.errors import UserError


class SampleKey(NamedTuple):
    """All that a sample depends on besides the seed."""

    epoch: int  # pass over the data set, 0 in evaluation
    index: int  # place in the data set
    valid: bool  # False for the rows that only fill up the last evaluation batch


class TrainingStream:
    """The training batches of one data-parallel rank, for steps [start_step, start_step + num_steps).

    The samples form one endless sequence, a fresh permutation of the data set an epoch. The global
    batch of step t is positions t*B to (t+1)*B - 1 of it: a function of (seed, t) alone, whatever
    the layout. An epoch's end may fall inside a batch, so no sample is ever dropped.

    Args:
        num_samples: size of the data set.
        global_batch_size: B, the rows of one optimizer step over all ranks.
        seed: the run's seed.
        data_rank, data_ranks: of the data-parallel ranks this one takes B / ranks contiguous rows.
        start_step, num_steps: what to yield; a resumed run starts at the step it stopped at.

    Yields:
        A list of B / data_ranks `SampleKey`s a step.

    Raises:
        UserError: B is not a positive multiple of the data-parallel size.
    """

    def __init__(
        self, num_samples, global_batch_size, seed, data_rank, data_ranks, start_step, num_steps
    ):
        if global_batch_size <= 0 or global_batch_size % data_ranks:
            raise UserError(
                f"global batch size {global_batch_size} cannot be shared evenly by "
                f"train.dist.data_parallel_size={data_ranks} ranks: set "
                "train.train_micro_batch_size (the rows of one rank) instead of "
                f"train.global_batch_size, or choose a positive multiple of {data_ranks}"
            )
        self.num_samples, self.seed = num_samples, seed
        self.global_batch_size = global_batch_size
        self.rows = global_batch_size // data_ranks
        self.first_row = data_rank * self.rows
        self.start_step, self.num_steps = start_step, num_steps
        self._permutations = {}

    def __len__(self):
        return self.num_steps

    def __iter__(self):
        for step in range(self.start_step, self.start_step + self.num_steps):
            first = step * self.global_batch_size + self.first_row
            yield [self._key(position) for position in range(first, first + self.rows)]

    def _key(self, position):
        epoch, offset = divmod(position, self.num_samples)
        return SampleKey(epoch, int(self._permutation(epoch)[offset]), True)

    def _permutation(self, epoch):
        if epoch not in self._permutations:
            # Batches move forward only, and a permutation of ImageNet is 10 MB: two are enough.
            while len(self._permutations) > 1:
                del self._permutations[min(self._permutations)]
            self._permutations[epoch] = epoch_permutation(self.seed, epoch, self.num_samples)
        return self._permutations[epoch]


class EvaluationBatches:
    """Every sample once, in order, in batches of one size on every rank.

    Global batch k holds samples k*b*R to (k+1)*b*R - 1 and rank r its rows r*b to (r+1)*b - 1.
    Rows past the last sample repeat sample 0 with `valid=False`: ranks of one global tensor must
    agree on its shape, so the last batch is filled up and never cut.

    Args:
        num_samples: size of the data set.
        batch_size_per_rank, data_rank, data_ranks: b, r and R.

    Yields:
        A list of b `SampleKey`s a batch, with epoch 0.

    Raises:
        UserError: b is not positive.
    """

    def __init__(self, num_samples, batch_size_per_rank, data_rank, data_ranks):
        if batch_size_per_rank <= 0:
            raise UserError(
                f"train.test_micro_batch_size={batch_size_per_rank} must be 1 or more: "
                "it is the number of images a rank evaluates at a time"
            )
        self.num_samples = num_samples
        self.rows = batch_size_per_rank
        self.first_row = data_rank * batch_size_per_rank
        self.global_batch_size = batch_size_per_rank * data_ranks

    def __len__(self):
        return -(-self.num_samples // self.global_batch_size)

    def __iter__(self):
        for batch in range(len(self)):
            first = batch * self.global_batch_size + self.first_row
            yield [self._key(index) for index in range(first, first + self.rows)]

    def _key(self, index):
        return SampleKey(0, index, True) if index < self.num_samples else SampleKey(0, 0, False)
