"""Finds what --eval-only and --knn wrote about a run. Files may be old, or damaged."""
import os
import sys
from typing import NamedTuple

from projects.MAE.errors import UserError
from projects.MAE.evaluation.result_file import EVALUATION, KNN
from projects.MAE.utils.untrusted_file import json_object, read_text

KINDS = {EVALUATION: "evaluation", KNN: "k-NN"}
# What such a file holds beside metrics: numbers, and texts.
NUMBERS = ("iteration", "images", "train_images", "val_images", "k", "temperature")
TEXTS = ("weights", "data")
# What is read at most: a folder may be a stranger's.
MOST_FIGURES = 50  # of an evaluation, or of a run
MOST_EVALUATIONS = 200
LARGEST, LONGEST_TEXT = 1 << 16, 4096  # bytes of a file, characters of a path


class Evaluation(NamedTuple):
    """An evaluation of weights."""

    kind: str  # "evaluation" or "k-NN"
    metrics: dict  # {name: finite number}
    about: dict  # NUMBERS and TEXTS that are known; files of earlier versions of this code lack some


def find_evaluations(folder, left_out):
    """The `Evaluation`s in an output folder, and in the folders in it that are no runs themselves;
    adds to `Run.left_out`."""
    inner = sorted(e.path for e in os.scandir(folder) if e.is_dir(follow_symlinks=False))
    places = [folder, *(path for path in inner if not holds_run(path) and not _is_trial(path))]
    paths = [os.path.join(place, name) for place in places for name in KINDS]
    paths = [path for path in paths if os.path.isfile(path)]
    if len(paths) > MOST_EVALUATIONS:
        more = len(paths) - MOST_EVALUATIONS
        left_out.append(f"evaluations after the first {MOST_EVALUATIONS}: {more:,}.")
    found = [_read(path, folder) for path in paths[:MOST_EVALUATIONS]]
    return [evaluation for evaluation in found if evaluation is not None]


def holds_run(folder):
    """Whether a run was begun in a folder, which --eval-only and --knn alone don't."""
    names = ("config.yaml", "metrics.json")
    return any(os.path.isfile(os.path.join(folder, name)) for name in names)


def _is_trial(folder):
    """--fast-dev-run takes two batches of the images: its figures say nothing."""
    return os.path.basename(folder) == "fast_dev_run"


def _read(path, folder):
    """The `Evaluation` in a file, None where it holds none."""
    try:
        content = json_object(read_text(path, LARGEST, folder)) or {}
    except (OSError, UserError):
        return None
    numbers = {key: value for key, value in content.items() if is_finite(value)}
    metrics = {key: value for key, value in numbers.items() if key not in (*NUMBERS, *TEXTS)}
    metrics = dict(list(metrics.items())[:MOST_FIGURES])
    about = {key: numbers[key] for key in NUMBERS if key in numbers}
    about.update({key: content[key][:LONGEST_TEXT] for key in TEXTS if isinstance(content.get(key), str)})
    return Evaluation(KINDS[os.path.basename(path)], metrics, about) if metrics else None


def is_finite(value):
    """Whether what was read from JSON is a number, not a bool, that a float can hold."""
    # A whole number of hundreds of digits is none that anybody has measured, and no float.
    return type(value) in (int, float) and abs(value) <= sys.float_info.max
