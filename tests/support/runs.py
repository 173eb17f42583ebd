"""Reads what runs have written, and compares two of them."""
import json

import numpy as np

from projects.MAE.checkpoint.names import find_checkpoint
from projects.MAE.checkpoint.reader import read_weights


def metrics(folder):
    """The lines of a run's metrics.json, as dicts."""
    return [json.loads(line) for line in (folder / "metrics.json").read_text().splitlines()]


def losses(folder):
    """The training losses that a run has written, in order."""
    return [line["total_loss"] for line in metrics(folder) if "total_loss" in line]


def assert_same_weights(first, second, rtol=0.0):
    """Fail unless the newest checkpoints of two folders agree, tensor by tensor.

    Args:
        rtol: allowed norm of a tensor's difference over its norm; 0 asks for the same bits.
    """
    ours, theirs = (read_weights(find_checkpoint(folder)) for folder in (first, second))
    assert set(ours) == set(theirs)
    for name in ours:
        expected, actual = theirs[name], ours[name]
        if rtol and name.endswith("query_key_value.bias"):
            # A key's bias has no influence on a softmax: its gradient is rounding alone, which
            # AdamW makes as large as any other. The order is head, then query, key and value.
            expected, actual = (x.reshape(4, 3, -1)[:, [0, 2]] for x in (expected, actual))
        distance = np.linalg.norm(actual - expected)
        assert distance <= rtol * np.linalg.norm(expected), (name, distance)
