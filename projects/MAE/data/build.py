"""From data sets to loaders of this rank's part of each batch: the configs' LazyCall targets."""
import logging

import numpy as np
import oneflow as flow
from libai.data.structures import DistTensorData, Instance
from libai.utils import distributed as dist

from projects.MAE.data.collate import BatchReader
from projects.MAE.data.datasets import ConcatenatedDataset, classes_of, files_of
from projects.MAE.data.sampler import EvaluationBatches, SampleKey, TrainingStream
from projects.MAE.data.skipped import SkippedImages
from projects.MAE.data.survey import describe, look, narrow
from projects.MAE.data.workers import prepare_workers, read_ahead
from projects.MAE.errors import UserError, raised_by

# The loss, on the last pipeline stage, needs them; everything else enters at the first.
LAST_STAGE_FIELDS = ("labels", "valid")

logger = logging.getLogger("libai." + __name__)


def whole_dataset(datasets):
    """The data sets of `dataloader.train` as one; a UserError if there is none, or classes differ."""
    datasets = list(datasets)
    if not datasets:
        raise UserError("dataloader.train.dataset is empty: list one data set or more")
    for dataset in datasets:
        size_of(dataset)
    return datasets[0] if len(datasets) == 1 else ConcatenatedDataset(datasets)


def build_image_train_loader(
    dataset, global_batch_size, start_iter, train_iter, num_workers=4, mixup=None, seed=0
):
    """The loader of `dataloader.train`: the global batches of steps [start_iter, train_iter).

    The configuration gives the last three arguments and a list of data sets; the trainer, which
    makes one of the list, gives the others.

    Args:
        global_batch_size: images of one step over all ranks and accumulated micro-batches.
        mixup: None or a `Mixup`.

    Raises:
        UserError: a batch that the ranks cannot share evenly.
    """
    ranks, steps = dist.get_dist_util().data_parallel_size, max(train_iter - start_iter, 0)
    stream = TrainingStream(
        len(dataset), global_batch_size, seed, data_parallel_rank(), ranks, start_iter, steps
    )
    return Loader(dataset, BatchReader(dataset, mixup, seed), stream, num_workers)


def build_image_test_loader(dataset, test_batch_size, num_workers=4):
    """The loader of an entry of `dataloader.test`: every image once.

    The configuration gives the data set and num_workers; the trainer test_batch_size, the images
    that a data-parallel rank evaluates at a time, from 1 on.
    """
    ranks = dist.get_dist_util().data_parallel_size
    batches = EvaluationBatches(size_of(dataset), test_batch_size, data_parallel_rank(), ranks)
    return Loader(dataset, BatchReader(dataset, evaluates=True), batches, num_workers)


def size_of(dataset):
    """`len(dataset)`; a `UserError` for whatever is wrong with it in a class of the user's own."""
    try:
        return len(dataset)
    except Exception as error:
        raise raised_by(f"len() of the data set {type(dataset).__name__}", error) from error


def check_sample(dataset, model, has_labels, trains):
    """Raise a UserError unless a data set of the user's own gives what a model takes.

    Its first sample is read; what docs/data.md says of such a class stands here as a table.

    Args:
        model: the configuration's node.
        has_labels: whether the model is a classifier.
        trains: whether the samples are for training.
    """
    for one in getattr(dataset, "datasets", [dataset]):
        if not files_of(one):
            _check_own(one, model, has_labels, trains)


def _check_own(dataset, model, has_labels, trains):
    name, side = type(dataset).__name__, model.img_size
    if not len(dataset):
        raise UserError(f"the data set {name} is empty: its len() is 0")
    wanted = {"images": ("float32", (model.in_chans, side, side))}
    if has_labels:
        wanted["labels"] = ("int64", ())
    else:
        wanted["noise"] = ("float32", ((side // model.patch_size) ** 2,))
    if trains and model.get("drop_path_rate"):
        wanted["drop_path_noise"] = ("float32", (2 * model.depth,))
    way_out = ", or set model.img_size, model.in_chans"
    sample = BatchReader(dataset)([SampleKey(epoch=0, index=0, valid=True)])
    for field, (dtype, shape) in wanted.items():
        needed = f"{dtype} {list(shape)}"
        found = sample.get(field)
        if found is None:
            raise UserError(f"sample 0 of the data set {name} has no {field!r}: add it, {needed}")
        if (str(found.dtype), found.shape[1:]) != (dtype, shape):
            raise UserError(
                f"sample 0 of the data set {name}: {field!r} is {found.dtype} {list(found.shape[1:])}, "
                f"but this model takes {needed}: mend the class{way_out if field == 'images' else ''}"
            )
    draws = ["drop_path_noise"] if has_labels else []  # a class may be for probing and finetuning
    known = {*wanted, *draws, "skipped", *([] if trains else ["valid"])}
    others = [field for field in sample if field not in known]
    if others:
        raise UserError(
            f"sample 0 of the data set {name} has {', '.join(map(repr, others))}, which this model does "
            "not take: leave it out"
        )
    if has_labels and not classes_of(dataset):
        raise UserError(f"the data set {name} has no attribute classes: add it, a list of their names")


class Loader:
    """This rank's rows of batches; its worker processes start with the first.

    Args:
        dataset: the data set, or several as one.
        read: its `BatchReader`.
        batches: gives the list of `SampleKey`s of each batch.
        num_workers: processes that read images; 0 reads in this process.

    Attributes:
        skipped: `SkippedImages`; in training others took their place, in evaluation none is valid.

    Yields:
        `Instance`s of `DistTensorData` local tensors: images float32 [n, 3, H, W]; noise float32
        [n, L], or labels int64 [n] (with mixup float32 [n, classes]) and drop_path_noise float32
        [n, draws]. In evaluation also valid int64 [n]: 0 in the rows that only fill up the last
        batch, and where an unreadable image was skipped.

    Raises:
        UserError: an unreadable image.
    """

    def __init__(self, dataset, read, batches, num_workers):
        self.dataset, self.read, self.batches = dataset, read, batches
        self.skipped, self.num_workers = SkippedImages(dataset), num_workers
        if num_workers:
            prepare_workers()
        if dist.is_main_process():
            _say_images(dataset)

    def __len__(self):
        return len(self.batches)

    def __iter__(self):
        for batch in read_ahead(self.read, self.batches, self.num_workers):
            yield _to_instance(batch, self.skipped)


def _say_images(dataset):
    """Log what is taken of the folders of a data set, and what is odd about the images."""
    for one in getattr(dataset, "datasets", [dataset]):
        images = files_of(one)
        if images:
            found = look(images)
            logger.info(f"{images.root}: {describe(images, images.reading, found)}")
            warning = narrow(images.reading, found.largest)
            if warning:
                logger.warning(f"{images.root}: {warning}")


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


def to_global(instance, *unused):
    """An Instance of local tensors -> {name: global tensor}.

    LiBai calls this with more arguments, which differ between its versions; none is needed: mixup
    is the loader's work, and the device is the model's, where LiBai's main branch takes a GPU if
    there is any.
    """
    batch = {}
    for name, value in instance.get_fields().items():
        value.to_global(placement=dist.get_layer_placement(value.placement_idx))
        batch[name] = value.tensor
    return batch
