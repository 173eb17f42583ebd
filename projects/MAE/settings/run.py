"""What a run is: its configuration, frozen, and all that follows from it, its ranks and its data."""
import math
from dataclasses import dataclass
from typing import Optional

from omegaconf import DictConfig

from projects.MAE.errors import UserError
from projects.MAE.modeling.task import Task
from projects.MAE.parallel.layout import Batch, Layout


@dataclass(frozen=True)
class Schedule:
    """How long a run trains, and at what rate."""

    samples: int  # of an epoch, the size of the training data
    iterations: int  # optimizer steps of the whole run
    warmup: int  # how many of them are warm-up
    peak: float  # the learning rate after it


@dataclass(frozen=True)
class Run:
    """A run, complete before anything is built of it; nobody writes into it."""

    cfg: DictConfig  # as it was asked for, read-only
    task: Task
    device: str  # "cuda" or "cpu"
    layout: Layout
    batch: Batch
    half_precision: bool  # whether graphs multiply matrices in float16
    resumes: bool  # whether --resume was given
    start_iter: int = 0  # iterations that were done before; its checkpoint is the one after them
    schedule: Optional[Schedule] = None  # None where nothing is trained
    said: tuple = ()  # lines for the log: which settings were given up, what was taken from weights

    @property
    def in_graph(self):
        """Whether a graph does the optimizer steps."""
        return self.cfg.graph.enabled and self.task.graph_trains


def schedule_of(cfg, batch, samples):
    """The `Schedule` of a configuration on `samples` images.

    One of train.train_epoch and train.train_iter is 0, see `alternatives.py`. The rate is optim.lr, or
    train.base_lr * global batch / 256 (Goyal et al., arXiv 1706.02677).
    """
    train, total = cfg.train, batch.total
    iterations = max(math.ceil(samples * train.train_epoch / total), train.train_iter)
    if iterations < 1:
        raise UserError("train.train_epoch and train.train_iter are both 0: set one of them")
    if train.warmup_ratio is not None:
        warmup = math.ceil(iterations * train.warmup_ratio)
    else:
        warmup = math.ceil(samples * train.warmup_epoch / total)
    peak = train.base_lr * total / 256 if cfg.optim.lr is None else cfg.optim.lr
    return Schedule(samples, iterations, min(warmup, iterations), peak)
