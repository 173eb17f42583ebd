"""What a model is trained for: the one place that knows how pretraining, finetuning and probing differ."""
from dataclasses import dataclass, replace

from projects.MAE.modeling.linear_probe import LinearProbe
from projects.MAE.modeling.mae import MaskedAutoencoderViT
from projects.MAE.runtime.lazy_call import target_of

RECONSTRUCTION_LOSS = "reconstruction_loss"
# Layers behind a classifier's encoder.
CLASSIFIER_END = ("norm.", "fc_norm.", "feature_norm.", "head.")


def telling(topk, num_classes):
    """Those k of which a top-k accuracy tells something: 1, and fewer than there are classes."""
    return [k for k in topk if k == 1 or num_classes is None or k < num_classes]


@dataclass(frozen=True)
class Task:
    """A kind of training."""

    name: str  # in logs and reports
    has_labels: bool  # its data has classes, and its model `num_classes` of them
    best: str  # "max" where the larger figure of an evaluation is the better one, else "min"
    draws: bool  # whether there are reconstructions to look at
    graph_trains: bool  # whether a graph can do its optimizer steps; else they are eager
    may_be_new: tuple  # beginnings of the names of tensors that weights to start from need not give
    may_be_left: tuple  # the same of tensors in them that its model has no place for

    def metrics(self, topk, num_classes=None):
        """Names of the figures of an evaluation; see `telling`."""
        if not self.has_labels:
            return [RECONSTRUCTION_LOSS]
        return [f"Acc@{k}" for k in telling(topk, num_classes)]


PRETRAINING = Task(
    "pretraining",
    has_labels=False,
    best="min",
    draws=True,
    graph_trains=True,
    may_be_new=(),
    may_be_left=("head.", "fc_norm.", "pooler."),
)
FINETUNING = Task(
    "finetuning",
    has_labels=True,
    best="max",
    draws=False,
    graph_trains=True,
    may_be_new=CLASSIFIER_END,
    may_be_left=("decoder_", "mask_token", "pooler.", *CLASSIFIER_END),
)
# The statistics of its features follow each step, and LARS is another one in OneFlow's graphs.
PROBING = replace(FINETUNING, name="linear probing", graph_trains=False)


def task_of(model):
    """The `Task` of a configuration's node `model`, from the class that it calls.

    What a class or function of the user's own is for is told by whether it takes `num_classes`.
    """
    return _task_of(target_of("model", model), "num_classes" in model)


def task_of_module(model):
    """The `Task` of a model that is built; one of the user's own that has a `head` classifies."""
    return _task_of(type(model), hasattr(model, "head"))


def _task_of(target, has_labels):
    for kind, task in ((MaskedAutoencoderViT, PRETRAINING), (LinearProbe, PROBING)):
        if isinstance(target, type) and issubclass(target, kind):
            return task
    return FINETUNING if has_labels else PRETRAINING
