"""Reads what a run left in its output folder. Every part may be missing, and lines may be damaged."""
import os
import re
from collections import defaultdict

from projects.MAE.checkpoint.names import CARD
from projects.MAE.errors import UserError, is_in
from projects.MAE.report.evaluations import MOST_FIGURES, find_evaluations, is_finite
from projects.MAE.runtime.versions import FILE as ENVIRONMENT
from projects.MAE.utils.disk import read_error
from projects.MAE.utils.untrusted_file import (
    LARGEST_JSON,
    LARGEST_YAML,
    json_object,
    open_regular,
    read_text,
    yaml_mapping,
)
from projects.MAE.weights.plain_config import without_references

TRAINING = ("total_loss", "lr", "samples_per_second")
PICTURES = "reconstructions"
# What is read of a run at most: a folder may be a stranger's.
LARGEST_METRICS = 1 << 24  # bytes at the end of the file; 1,000,000 iterations write a third
# Of these the first: a run has far fewer.
MOST_LINES, MOST_VALUES = 250_000, 300_000
LONGEST_LINE = 1 << 16  # bytes
LARGEST_ENVIRONMENT = 1 << 18
LARGEST_CARDS = 1 << 23  # bytes of all cards
LARGEST_PICTURE = 1 << 23


class Run:
    """A run, as its files tell it.

    Attributes:
        folder: as it was named.
        curves: {name of a figure: [(iteration, value), ...]}, iterations going up, values finite.
            Where a run was resumed, or started anew in the same folder, what came from there on
            before is gone.
        restarts: iterations that the run was gone on with at.
        damaged: lines of metrics.json that are no such thing.
        config, environment: nested dicts, {} where there is none. References between settings are
            followed, others are the texts that they are.
        config_text: of config.yaml, "" where there is none.
        checkpoints: [{"name", "bytes", "card"}, ...], the oldest first.
        pictures: paths of PNG files, the oldest first.
        evaluated: `Evaluation`s of --eval-only and --knn that were written into the folder.
        left_out: lines that say what of the folder is not shown: what is larger than a run makes it,
            and files that lie elsewhere.
    """

    def __init__(self, folder):
        self.folder, self.left_out = folder, []
        self.curves, self.restarts, self.damaged = _read_metrics(folder, self.left_out)
        self.config, self.config_text = _read_config(folder, self.left_out)
        self.environment = _read_environment(folder, self.left_out)
        self.checkpoints = _find_checkpoints(folder, self.evaluations, self.left_out)
        self.pictures = _find_pictures(folder, self.left_out)
        self.evaluated = find_evaluations(folder, self.left_out)

    def setting(self, key, default=None):
        """A value of the configuration by its dotted name."""
        node = self.config
        for part in key.split("."):
            if not isinstance(node, dict) or part not in node:
                return default
            node = node[part]
        return node

    @property
    def began(self):
        """Whether there is anything of a training run; an evaluation alone may lie in a folder, too."""
        return bool(self.curves or self.config)

    @property
    def iterations(self):
        """How many are done."""
        return self.curves["total_loss"][-1][0] if self.curves.get("total_loss") else 0

    @property
    def planned(self):
        """How many there are to be, None where that is not known."""
        return self._count("schedule", "iterations", "train.train_iter")

    @property
    def kind(self):
        """"pretraining", "finetuning", "linear probing", or "evaluation" where nothing was trained."""
        if not self.began:
            return "evaluation"
        if isinstance(self.environment.get("task"), str):
            return self.environment["task"]
        # Runs of earlier versions of this code.
        target = str(self.setting("model._target_", ""))
        if "MaskedAutoencoder" in target:
            return "pretraining"
        return "linear probing" if "robe" in target else "finetuning"

    @property
    def evaluations(self):
        """{name of a metric: [(iteration, value), ...]} of the evaluations."""
        return {name: points for name, points in self.curves.items() if name not in TRAINING}

    def _count(self, group, name, setting):
        """A number above 0 of environment.json; config.yaml's where an earlier version kept it there."""
        told = self.environment.get(group)
        value = told.get(name) if isinstance(told, dict) else self.setting(setting)
        return value if isinstance(value, int) and is_finite(value) and value > 0 else None

    def epochs(self, iteration):
        """Epochs that an iteration ends after, None where the size of the data is not known."""
        batch = self._count("batch", "total", "train.global_batch_size")
        images = self.environment.get("training_images")
        if batch is None or not (isinstance(images, int) and is_finite(images) and images > 0):
            return None
        epochs = float(iteration) * batch / images
        return epochs if is_finite(epochs) else None

    def best(self, metric):
        """(iteration, value) of the best evaluation: the lowest loss, the highest accuracy."""
        choose = min if "loss" in metric else max
        return choose(self.evaluations[metric], key=lambda point: point[1])


def read_run(folder):
    """The `Run` of an output folder.

    Raises:
        UserError: the folder is none, or nothing of a run and no evaluation is in it.
    """
    if not os.path.isdir(folder):
        raise UserError(f"{folder}: no such folder: name the train.output_dir of a run")
    run = Run(folder)
    if not run.began and not run.evaluated:
        raise UserError(
            f"{folder}: neither a metrics.json nor a config.yaml that can be read, nor an evaluation: "
            "name the train.output_dir of a run"
        )
    return run


def _read_metrics(folder, left_out):
    """`Run.curves`, `Run.restarts` and `Run.damaged`; adds to left_out."""
    figures, restarts, damaged, last, values = defaultdict(list), [], 0, 0, 0
    unknown = set()
    for place, line in enumerate(_lines(os.path.join(folder, "metrics.json"), folder, left_out)):
        if values > MOST_VALUES:
            left_out.append(f"metrics.json: figures after the first {MOST_VALUES:,}.")
            break
        found = json_object(line) or {}
        iteration = found.pop("iteration", None)
        if not isinstance(iteration, int) or not is_finite(iteration):
            damaged += 1
            continue
        if "total_loss" in found:
            if iteration <= last:
                restarts.append((place, iteration))
            # The first figure of a part of the run includes the compilation of the graph. Files of
            # earlier versions of this code tell where one begins only where iterations go back.
            if last == 0 or iteration <= last or found.get("first_step") is True:
                found.pop("samples_per_second", None)
            last = iteration
        for name, value in found.items():
            if not is_finite(value):
                continue
            if name not in figures and len(figures) == MOST_FIGURES:
                if len(unknown) < 1000:
                    unknown.add(name[:100])
                continue
            figures[name].append((place, iteration, value))
            values += 1
    if unknown:
        left_out.append(f"metrics.json: {len(unknown):,} figures or more of other names.")
    curves = {name: _last_written(found, restarts) for name, found in figures.items()}
    return {n: c for n, c in curves.items() if c}, [i for _, i in restarts], damaged


def _last_written(found, restarts):
    """[(iteration, value), ...] of a figure, iterations going up.

    Args:
        found: [(place in the file, iteration, value), ...].
        restarts: [(place in the file, iteration), ...]: from there on what came before is gone.
    """
    kept, least, restarts = {}, float("inf"), list(restarts)
    for place, iteration, value in reversed(found):
        while restarts and restarts[-1][0] > place:
            least = min(least, restarts.pop()[1])
        if iteration < least:
            kept.setdefault(iteration, value)
    return sorted(kept.items())


def _lines(path, folder, left_out):
    """The lines of a text file that hold anything; the last ones of a file that has too many."""
    try:
        with open_regular(path, folder) as file:
            size = os.fstat(file.fileno()).st_size
            if size > LARGEST_METRICS:
                left_out.append(f"metrics.json: what stands before its last {LARGEST_METRICS:,} bytes.")
                file.seek(size - LARGEST_METRICS)
                file.readline()
            for _ in range(MOST_LINES):
                line = file.readline(LONGEST_LINE)
                if not line:
                    return
                rest = line
                while len(rest) == LONGEST_LINE and not rest.endswith(b"\n"):
                    rest = file.readline(LONGEST_LINE)
                if line.strip():
                    yield line.decode("utf-8", "replace")
            left_out.append(f"metrics.json: lines after the first {MOST_LINES:,}.")
    except UserError as error:
        left_out.append(f"{error}.")
    except OSError as error:
        if os.path.isfile(path):
            raise read_error(path, error) from None


def _read_environment(folder, left_out):
    try:
        text = read_text(os.path.join(folder, ENVIRONMENT), LARGEST_ENVIRONMENT, folder)
    except UserError as error:
        left_out.append(f"{error}.")
        return {}
    except OSError:  # none, or not for this user to read
        return {}
    return json_object(text) or {}


def _read_config(folder, left_out):
    """The configuration as plain values, and the file's text; adds to left_out."""
    path = os.path.join(folder, "config.yaml")
    try:
        text = read_text(path, LARGEST_YAML, folder)
    except UserError as error:
        left_out.append(f"{error}.")
        return {}, ""
    except OSError as error:
        if not os.path.isfile(path):
            return {}, ""
        raise read_error(path, error) from None
    try:
        return without_references(yaml_mapping(text), keep=True), text
    except ValueError:
        return {}, text


def _find_checkpoints(folder, metrics, left_out):
    """`Run.checkpoints`, with what their cards say of their iteration and of these metrics; adds to
    left_out. A link to one in the folder is the same once more."""
    found, left, linked = [], LARGEST_CARDS, 0
    for name in sorted(os.listdir(folder)):
        path = os.path.join(folder, name)
        holds_model = os.path.isdir(os.path.join(path, "model"))
        if holds_model and os.path.islink(path):
            linked += not is_in(os.path.realpath(path), os.path.realpath(folder))
        elif holds_model and not name.startswith("."):  # one that is being written
            try:
                text = read_text(os.path.join(path, CARD), min(left, LARGEST_JSON), folder)
            except (OSError, UserError):  # what is missing or wrong is the card alone
                text = ""
            left -= len(text)
            card = json_object(text) or {}
            card = {k: v for k, v in card.items() if k == "iteration" or k in metrics}
            card = {key: value for key, value in card.items() if is_finite(value)}
            found.append({"name": name, "bytes": _size(path), "card": card})
    if linked:
        left_out.append(f"checkpoints that are links out of the folder: {linked:,}.")
    return found


def _size(folder):
    """Bytes of a folder's files; of links their own."""
    paths = (os.path.join(parent, name) for parent, _, names in os.walk(folder) for name in names)
    return sum(os.lstat(path).st_size for path in paths)


def _find_pictures(folder, left_out):
    place = os.path.join(folder, PICTURES)
    names = os.listdir(place) if os.path.isdir(place) else []
    names = [name for name in names if name.lower().endswith(".png")]
    own = [name for name in names if _is_picture(os.path.join(place, name), folder)]
    if len(own) < len(names):
        left_out.append(f"{len(names) - len(own):,} files in {PICTURES} that are no pictures of a run.")

    def order(name):
        number = re.search(r"\d+", name)
        return (int(number.group()) if number else -1, name)

    return [os.path.join(place, name) for name in sorted(own, key=order)]


def _is_picture(path, folder):
    """Whether a path is a file of a picture's size that lies in the folder, links followed."""
    if not os.path.isfile(path) or os.path.getsize(path) > LARGEST_PICTURE:
        return False
    return is_in(os.path.realpath(path), os.path.realpath(folder))
