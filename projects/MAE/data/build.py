"""From data sets to loaders that yield this rank's part of each batch: the configs' LazyCall targets."""
import numpy as np
import oneflow as flow
from libai.data.structures import DistTensorData, Instance
from libai.utils import distributed as dist

from projects.MAE.data.collate import BatchReader
from projects.MAE.data.datasets import ConcatenatedDataset
from projects.MAE.data.sampler import EvaluationBatches, TrainingStream
from projects.MAE.data.skipped import SkippedImages
from projects.MAE.data.workers import prepare_workers, read_ahead
from projects.MAE.errors import UserError

# The loss, on the last pipeline stage, needs them; everything else enters at the first.
LAST_STAGE_FIELDS = ("labels", "valid")


def build_image_train_loader(dataset, num_workers=4, mixup=None, seed=0):
    """The loader of `dataloader.train`.

    Args:
        dataset: a list of data sets with the same classes; several are read as one.
        num_workers: processes that read images; 0 reads in the training process.
        mixup: None or a `Mixup`.
        seed: the run's seed.

    Returns:
        A `TrainLoader`.

    Raises:
        UserError: no data set, or data sets whose classes differ.
    """
    datasets = list(dataset)
    if not datasets:
        raise UserError("dataloader.train.dataset is empty: list one data set or more")
    whole = datasets[0] if len(datasets) == 1 else ConcatenatedDataset(datasets)
    return TrainLoader(whole, num_workers, mixup, seed)


def build_image_test_loader(dataset, num_workers=4):
    """The loader of an entry of `dataloader.test`: a `TestLoader`.

    Args:
        dataset: a data set.
        num_workers: processes that read images; 0 reads in the main process.
    """
    return TestLoader(dataset, num_workers)


class TrainLoader:
    """This rank's rows of the global batches of steps [start_iter, train_iter).

    The trainer computes how many steps to run from `len(loader.dataset)`, so what depends on that
    is set after construction, and worker processes start with the first batch.

    Attributes:
        dataset: the data set, or several as one.
        global_batch_size: images of one step over all ranks and accumulated micro-batches.
        start_iter, train_iter: the first step to load, and the step to end before.
        skipped: `SkippedImages`, the unreadable ones whose place others took.

    Yields:
        `Instance`s of `DistTensorData` local tensors: images float32 [n, 3, H, W]; noise float32
        [n, L], or labels int64 [n] (with mixup float32 [n, classes]) and drop_path_noise float32
        [n, draws].

    Raises:
        UserError: an unreadable image, or a batch that the ranks cannot share evenly.
    """

    def __init__(self, dataset, num_workers, mixup, seed):
        self.dataset = dataset
        self.skipped = SkippedImages(dataset)
        self.num_workers = num_workers
        self.mixup = mixup
        self.seed = seed
        self.global_batch_size = None
        self.start_iter = 0
        self.train_iter = None
        if num_workers:
            prepare_workers()

    def __len__(self):
        if self.train_iter is None:
            raise ValueError("set loader.train_iter first: it decides how many batches there are")
        return max(self.train_iter - self.start_iter, 0)

    def __iter__(self):
        ranks = dist.get_dist_util().data_parallel_size
        stream = TrainingStream(
            len(self.dataset),
            self.global_batch_size,
            self.seed,
            data_parallel_rank(),
            ranks,
            self.start_iter,
            len(self),
        )
        read = BatchReader(self.dataset, self.mixup, self.seed)
        for batch in read_ahead(read, stream, self.num_workers):
            yield _to_instance(batch, self.skipped)


class TestLoader:
    """This rank's rows of the evaluation batches, every image once.

    Attributes:
        dataset: the data set.
        test_batch_size: images a data-parallel rank evaluates at a time; set by the trainer.
        skipped: `SkippedImages`, the unreadable ones, which are not valid.

    Yields:
        As `TrainLoader`, with valid int64 [n]: 0 in the rows that only fill up the last batch, and
        where an unreadable image was skipped.

    Raises:
        UserError: an unreadable image, or a batch size below 1.
    """

    __test__ = False  # not a test case, whatever pytest makes of the name

    def __init__(self, dataset, num_workers):
        self.dataset = dataset
        self.skipped = SkippedImages(dataset)
        self.num_workers = num_workers
        self.test_batch_size = None
        if num_workers:
            prepare_workers()

    def __len__(self):
        return len(self._batches())

    def __iter__(self):
        read = BatchReader(self.dataset)
        for batch in read_ahead(read, self._batches(), self.num_workers):
            yield _to_instance(batch, self.skipped)

    def _batches(self):
        ranks = dist.get_dist_util().data_parallel_size
        return EvaluationBatches(
            len(self.dataset), self.test_batch_size, data_parallel_rank(), ranks
        )


def data_parallel_rank():
    """This process's place among the data-parallel ranks.

    Stages are blocks of consecutive ranks; inside one the hierarchy is (data, tensor), row-major.
    LiBai 0.1.1's own function divides the world rank by the model-parallel size, which gives ranks
    of one stage the same data and ranks of different stages different data.
    """
    util = dist.get_dist_util()
    ranks_of_stage = util.world_size // util.pipeline_parallel_size
    return dist.get_rank() % ranks_of_stage // util.tensor_parallel_size


def _to_instance(batch, skipped):
    skipped.add(batch.pop("skipped", ()))
    instance = Instance()
    for field, array in batch.items():
        if field == "valid":
            array = array.astype(np.int64)
        stage = -1 if field in LAST_STAGE_FIELDS else 0
        instance.set(field, DistTensorData(flow.from_numpy(array), placement_idx=stage))
    return instance
