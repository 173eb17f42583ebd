"""Reads what a run left in its output folder. Every part may be missing, and lines may be damaged."""
import os
import re
from collections import defaultdict

import yaml
from omegaconf import OmegaConf
from omegaconf.errors import OmegaConfBaseException

from projects.MAE.checkpoint.reader import read_card
from projects.MAE.errors import UserError
from projects.MAE.report.evaluations import find_evaluations, is_finite, json_object
from projects.MAE.runtime.versions import FILE as ENVIRONMENT
from projects.MAE.utils.disk import read_error

TRAINING = ("total_loss", "lr", "samples_per_second")
PICTURES = "reconstructions"


class Run:
    """A run, as its files tell it.

    Attributes:
        folder: as it was named.
        curves: {name of a figure: [(iteration, value), ...]}, iterations going up, values finite.
            Where a run was resumed, or started anew in the same folder, what came from there on
            before is gone.
        restarts: iterations that the run was gone on with at.
        damaged: lines of metrics.json that are no such thing.
        config, environment: nested dicts, {} where there is none.
        config_text: of config.yaml, "" where there is none.
        checkpoints: [{"name", "bytes", "card"}, ...], the oldest first.
        pictures: paths of PNG files, the oldest first.
        evaluated: `Evaluation`s of --eval-only and --knn that were written into the folder.
    """

    def __init__(self, folder):
        self.folder = folder
        self.curves, self.restarts, self.damaged = _read_metrics(os.path.join(folder, "metrics.json"))
        self.config, self.config_text = _read_config(os.path.join(folder, "config.yaml"))
        self.environment = _read_json(os.path.join(folder, ENVIRONMENT))
        self.checkpoints = _find_checkpoints(folder)
        self.pictures = _find_pictures(os.path.join(folder, PICTURES))
        self.evaluated = find_evaluations(folder)

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


def _read_metrics(path):
    curves, restarts, damaged, last = defaultdict(dict), [], 0, 0
    for line in _lines(path):
        values = json_object(line) or {}
        iteration = values.pop("iteration", None)
        if not isinstance(iteration, int) or not is_finite(iteration):
            damaged += 1
            continue
        if "total_loss" in values:
            if iteration <= last:
                restarts.append(iteration)
                for curve in curves.values():
                    for later in [i for i in curve if i >= iteration]:
                        del curve[later]
            # The first figure of a part of the run includes the compilation of the graph. Files of
            # earlier versions of this code tell where one begins only where iterations go back.
            if last == 0 or iteration <= last or values.get("first_step") is True:
                values.pop("samples_per_second", None)
            last = iteration
        for name, value in values.items():
            if is_finite(value):
                curves[name][iteration] = value
    return {n: sorted(c.items()) for n, c in curves.items() if c}, restarts, damaged


def _lines(path):
    return [line for line in _text(path).split("\n") if line.strip()]


def _text(path):
    """A text file's content, "" where there is none; a UserError where it can't be read."""
    try:
        with open(path, errors="replace") as file:
            return file.read()
    except OSError as error:
        if not os.path.isfile(path):
            return ""
        raise read_error(path, error) from None


def _read_json(path):
    try:
        with open(path, errors="replace") as file:
            return json_object(file.read()) or {}
    except OSError:  # none, or one that this user may not read
        return {}


def _read_config(path):
    """The configuration with its references resolved where they can be, and the file's text."""
    text = _text(path)
    try:
        plain = yaml.safe_load(text)
    except (yaml.YAMLError, RecursionError):
        return {}, text
    if not isinstance(plain, dict):
        return {}, text
    try:
        return OmegaConf.to_container(OmegaConf.create(plain), resolve=True), text
    except OmegaConfBaseException:
        return plain, text


def _find_checkpoints(folder):
    found = []
    for name in sorted(os.listdir(folder)):
        path = os.path.join(folder, name)
        holds_model = os.path.isdir(os.path.join(path, "model")) and not os.path.islink(path)
        if holds_model and not name.startswith("."):  # one that is being written
            found.append({"name": name, "bytes": _size(path), "card": _card(path)})
    return found


def _card(path):
    try:
        return read_card(path)
    except (UserError, ValueError, OSError):
        return {}  # what is damaged, or not for this user to read, is the card alone


def _size(folder):
    paths = (os.path.join(parent, name) for parent, _, names in os.walk(folder) for name in names)
    return sum(map(os.path.getsize, paths))


def _find_pictures(folder):
    names = os.listdir(folder) if os.path.isdir(folder) else []
    names = [name for name in names if name.lower().endswith(".png")]

    def order(name):
        number = re.search(r"\d+", name)
        return (int(number.group()) if number else -1, name)

    return [os.path.join(folder, name) for name in sorted(names, key=order)]
