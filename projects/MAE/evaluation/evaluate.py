"""Evaluation that counts every sample once, on any layout."""
import itertools
import logging

import numpy as np
import oneflow as flow
from libai.utils import distributed as dist

from projects.MAE.data.build import to_global
from projects.MAE.errors import UserError
from projects.MAE.modeling.task import RECONSTRUCTION_LOSS, telling
from projects.MAE.monitor.bar import watched
from projects.MAE.runtime.ranks import gather

logger = logging.getLogger("libai." + __name__)


def topk_correct(scores, labels, topk):
    """How many of the labels [N] are among the k best scores [N, classes], for each k of topk."""
    order = np.argsort(-scores, axis=1, kind="stable")
    hits = order == labels[:, None]
    return [int(hits[:, :k].any(axis=1).sum()) for k in topk]


def measure(model, loader, settings, stops=None, columns=None):
    """Evaluate a module or graph, in evaluation mode, and log it; rank 0 shows how far it is.

    Args:
        loader: see `build_image_test_loader`.
        settings: the configuration's node `train.evaluation`.
        stops, columns, and what is returned: as of `evaluate`.
    """
    module = model.model if isinstance(model, flow.nn.Graph) else model
    module.eval()
    batches = loader
    if dist.is_main_process():
        total = min(len(loader), settings.eval_iter or len(loader))
        batches = watched(loader, total, "Evaluating")
    found = evaluate(model, batches, settings.topk, settings.eval_iter, stops, columns)
    if found is None:
        return None
    loader.skipped.report("they count for nothing in the evaluation")
    logger.info("Evaluation: " + ", ".join(f"{k} {v:.4f}" for k, v in found[0].items()))
    return found


def evaluate(model, loader, topk, max_batches, stops, columns=None):
    """Evaluate a classifier or an autoencoder.

    Args:
        model: module or graph in evaluation mode.
        loader: of batches with "valid" marking what is not padding.
        topk: the values of k for a classifier.
        max_batches: stop after so many; None for all.
        stops: a function that is asked before each batch whether to give up; None for never.
        columns: int64 [classes of the data], the head's output for each; None where they are the same.

    Returns:
        {"Acc@1": percent, ...} of a classifier, for k of `telling`, or {"reconstruction_loss": ...} of
        an autoencoder, and of how many images; None after giving up.
    """
    total, correct, loss = 0, np.zeros(len(topk), np.int64), 0.0
    with flow.no_grad():
        for batch in itertools.islice(loader, max_batches):
            if stops is not None and stops():
                return None
            data = to_global(batch)
            valid = gather(data.pop("valid")).astype(bool)
            labels = data.pop("labels", None)
            data.pop("drop_path_noise", None)  # nothing is dropped in an evaluation
            outputs = model(**data)
            total += int(valid.sum())
            if labels is None:
                loss += float(gather(outputs["sample_losses"])[valid].sum(dtype=np.float64))
            else:
                scores = gather(outputs["prediction_scores"])[valid]
                scores = scores if columns is None else scores[:, columns]
                classes = scores.shape[1]
                correct += topk_correct(scores, gather(labels)[valid], topk)
    if not total:
        raise UserError("none of the images to evaluate can be read: see the log for the first of them")
    if labels is None:
        return {RECONSTRUCTION_LOSS: loss / total}, total
    told = telling(topk, classes)
    return {f"Acc@{k}": 100.0 * int(c) / total for k, c in zip(topk, correct) if k in told}, total
