"""The k-NN probe: classify images by their nearest training images, without any training.

The form of instance discrimination (Wu et al., arXiv 1805.01978) and DINO: features of length 1,
the k training images of largest cosine similarity s, each a vote of exp(s / temperature) for its
class.
"""
import itertools
import logging

import numpy as np
import oneflow as flow
from libai.utils import distributed as dist

from projects.MAE.data.build import (
    build_image_test_loader,
    check_sample,
    to_global,
    whole_dataset,
)
from projects.MAE.data.datasets import check_same_classes, classes_of, files_of, place_of, prepared
from projects.MAE.errors import UserError
from projects.MAE.modeling.task import task_of, telling
from projects.MAE.monitor.bar import watched
from projects.MAE.runtime.lazy_call import instantiate
from projects.MAE.runtime.ranks import gather

TOPK = (1, 5)
CHUNK = 1 << 22  # similarities that a rank holds at a time

logger = logging.getLogger("libai." + __name__)


class Bank:
    """A rank's share of the features of `total` training images: every R-th row, R being the ranks.

    Ranks are those of the whole world: those that share a model's weights share the bank, too.
    """

    def __init__(self, total, rank, ranks):
        self.indices = np.arange(rank, total, ranks)
        self.features, self.filled = None, 0

    def add(self, features, first):
        """Keep this rank's rows of `features` [n, D], which are the images first to first + n - 1."""
        if self.features is None:
            self.features = np.zeros((len(self.indices), features.shape[1]), np.float32)
        end = int(np.searchsorted(self.indices, first + len(features)))
        rows = self.indices[self.filled : end] - first
        self.features[self.filled : end] = features[rows]
        self.filled = end

    def nearest(self, queries, k):
        """The k nearest of this rank's rows.

        Args:
            queries: float32 [Q, D] of length 1.

        Returns:
            Similarities, float32 [Q, k], and image indices, int64 [Q, k], in no order; -inf and -1
            where the rank has fewer rows.
        """
        found = np.full((len(queries), k), -np.inf, np.float32), np.full((len(queries), k), -1)
        step = max(CHUNK // max(len(queries), 1), k)
        for start in range(0, self.filled, step):
            part = slice(start, min(start + step, self.filled))
            similarities = queries @ self.features[part].T
            indices = np.broadcast_to(self.indices[part], similarities.shape)
            found = best([found[0], similarities], [found[1], indices], k)
        return found


def best(similarities, indices, k):
    """The k largest of each row and their indices, in no order; lists of [Q, n] -> [Q, k] twice."""
    similarities, indices = (np.concatenate(parts, axis=1) for parts in (similarities, indices))
    chosen = np.argpartition(-similarities, k - 1, axis=1)[:, :k]
    return np.take_along_axis(similarities, chosen, 1), np.take_along_axis(indices, chosen, 1)


def unit(features):
    """Rows [n, D] scaled to length 1."""
    return features / np.maximum(np.linalg.norm(features, axis=1, keepdims=True), 1e-12)


def vote(similarities, labels, num_classes, temperature):
    """What neighbours, float and int [Q, k], say of each class, float64 [Q, C]; -inf has no say."""
    scores = np.zeros((len(labels), num_classes))
    weights = np.exp(similarities.astype(np.float64) / temperature)
    np.add.at(scores, (np.arange(len(labels))[:, None], labels), weights)
    return scores


def hits(scores, labels, topk=TOPK):
    """How many labels are among the k best classes, for each k; a class without a vote is no hit."""
    own = scores[np.arange(len(labels)), labels]
    better = (scores > own[:, None]).sum(axis=1)
    return [int(((better < k) & (own > 0)).sum()) for k in topk]


def all_gather(array):
    """The arrays [...] that all ranks call this with -> [R, ...] on every rank."""
    ranks = flow.placement("cpu", list(range(dist.get_world_size())))
    rows = flow.from_numpy(np.ascontiguousarray(array[None]))
    return gather(rows.to_global(placement=ranks, sbp=flow.sbp.split(0)))


def features_of(model, loader, max_batches, what):
    """Yield (features [n, D] of length 1, labels [n]) of every batch, without its padding.

    Every rank gets all rows, in the order of the data set. Rank 0 shows how far `what` is.
    """
    batches = itertools.islice(loader, max_batches)
    if dist.is_main_process():
        batches = watched(batches, min(len(loader), max_batches or len(loader)), what)
    for batch in batches:
        data = to_global(batch)
        labels = gather(data["labels"])
        features = gather(model.forward_features(data["images"]).float())
        yield unit(features[labels >= 0]), labels[labels >= 0]


def knn_accuracy(model, train_loader, val_loader, k, temperature, max_batches=None):
    """The accuracy of the k-NN probe; every rank calls this.

    Args:
        model: with `forward_features`, in evaluation mode.
        train_loader, val_loader: of evaluation batches with labels, -1 where a row is no image.
        max_batches: stop after so many of each loader; None for all.

    Returns:
        {"Acc@1", with more than 5 classes "Acc@5": percent, "train_images", "val_images": how many
        there were}.
    """
    bank = Bank(len(train_loader.dataset), dist.get_rank(), dist.get_world_size())
    num_classes = len(classes_of(val_loader.dataset))
    labels, correct, count, total = [], np.zeros(len(TOPK), np.int64), 0, 0
    with flow.no_grad():
        what = "k-NN: features of the training images"
        for features, own in features_of(model, train_loader, max_batches, what):
            bank.add(features, count)
            labels.append(own)
            count += len(own)
        labels = np.concatenate(labels)
        if not count:
            raise UserError("none of the training images can be read: see the log for the first")
        k = min(k, count)
        what = "k-NN: neighbours of the validation images"
        for queries, wanted in features_of(model, val_loader, max_batches, what):
            similarities, indices = best(*map(all_gather, bank.nearest(queries, k)), k)
            scores = vote(similarities, labels[indices], num_classes, temperature)
            correct += hits(scores, wanted)
            total += len(wanted)
    if not total:
        raise UserError("none of the images to evaluate can be read: see the log for the first of them")
    train_loader.skipped.report("they are nobody's neighbours")
    val_loader.skipped.report("they count for nothing in the evaluation")
    told = telling(TOPK, num_classes)
    accuracy = {f"Acc@{n}": 100.0 * int(c) / total for n, c in zip(TOPK, correct) if n in told}
    return {**accuracy, "train_images": count, "val_images": total}


def build_loaders(cfg, val_loader):
    """Loaders of train/ and val/, both with the transform and the reading of files of the latter."""
    train, test = cfg.dataloader.train, cfg.dataloader.test[0]
    size = cfg.train.test_micro_batch_size
    transform, files = getattr(val_loader.dataset, "transform", None), files_of(val_loader.dataset)
    reading = files.reading if files else None
    datasets = [_as_evaluated(d, transform, reading) for d in instantiate(train.dataset)]
    train_loader = build_image_test_loader(whole_dataset(datasets), size, test.num_workers)
    for loader in (train_loader, val_loader):
        check_sample(loader.dataset, cfg.model, has_labels=True, trains=False)
    check_same_classes(train_loader.dataset, val_loader.dataset)
    dist.synchronize()  # so that ranks find a mistake together, whose lists took different times
    count = len(train_loader.dataset)
    if cfg.train.knn.k > count:
        raise UserError(f"train.knn.k={cfg.train.knn.k} is more than the {count} training images")
    return train_loader, val_loader


def _as_evaluated(dataset, transform, reading):
    """The images of a data set as evaluation takes them, where it can give them so."""
    if transform is not None and hasattr(dataset, "evaluated_with"):
        return prepared(dataset, transform, reading)
    logger.info(
        f"k-NN takes the samples of {place_of(dataset)} as training does: a method "
        "evaluated_with(transform), and a transform of the validation images, would tell another way"
    )
    return dataset


def check_knn(cfg):
    """Raise a UserError for a configuration that --knn is not for."""
    if not task_of(cfg.model).has_labels:
        raise UserError(
            "--knn needs a configuration with labels, mae_linprobe.py or another of a classifier; "
            "name the pretraining run as finetune.path"
        )


def run_knn(cfg, model, loaders, source):
    """Log the probe's figures and return them, with the numbers of images, k and the temperature.

    Args:
        model: filled with the weights to judge.
        loaders: of `build_loaders`.
        source: what to call the weights.
    """
    knn = cfg.train.knn
    logger.info(f"k-NN with k={knn.k}, temperature {knn.temperature}, on the features of {source}")
    model.eval()
    max_batches = cfg.train.evaluation.eval_iter
    results = knn_accuracy(model, *loaders, knn.k, knn.temperature, max_batches)
    results.update(k=knn.k, temperature=knn.temperature)
    figures = ", ".join(f"{k} {v:.4f}" for k, v in results.items() if k.startswith("Acc@"))
    logger.info(
        f"k-NN: {figures} on {results['val_images']} images, neighbours among {results['train_images']}"
    )
    return results
