"""Where the figures and pictures of a run go beside the log: metrics.json, TensorBoard, Weights & Biases.

A writer has three methods, which rank 0 calls:

    scalars(group, iteration, values)   values is {name: number}, group "train" or "evaluation"
    image(name, pixels, iteration)      pixels is uint8 [H, W, 3]
    close()

A hook finds them as `self.trainer.writers`, an empty list on other ranks.
"""
import importlib.util
import json
import os

from projects.MAE.errors import UserError
from projects.MAE.monitor.tensorboard import TensorBoard
from projects.MAE.utils.appended_file import AppendedFile
from projects.MAE.utils.disk import write_text

TENSORBOARD_FOLDER = "tensorboard"
WANDB_ID_FILE = "wandb_id.txt"


def check_writers(train):
    """Raise a UserError for a writer that is asked for and can't be had, before a run begins."""
    if train.tensorboard and not _installed("tensorboardX"):
        raise UserError(
            "train.tensorboard=True, but tensorboardX is not installed: pip install tensorboardX, or "
            "set train.tensorboard=False"
        )
    if train.wandb.enabled and not _installed("wandb"):
        raise UserError(
            "train.wandb.enabled=True, but wandb is not installed: pip install 'wandb<0.19' (a "
            "later one keeps OneFlow from starting), or set train.wandb.enabled=False"
        )


def build_writers(train, start_iter=0, resumes=False):
    """The writers that the configuration's `train` node asks for, after `start_iter` iterations.

    Raises:
        UserError: the disk refuses a file, or wandb can't begin.
    """
    writers = [JsonLines(os.path.join(train.output_dir, "metrics.json"), start_iter)]
    if train.tensorboard or (train.tensorboard is None and _installed("tensorboardX")):
        folder = os.path.join(train.output_dir, TENSORBOARD_FOLDER)
        writers.append(TensorBoard(folder, start_iter))
    if train.wandb.enabled:
        writers.append(WeightsAndBiases(train.output_dir, train.wandb, resumes))
    return writers


class JsonLines:
    """metrics.json: an object a line, with `iteration` and the values. A resumed run adds to it.

    The first line after `start_iter` says `first_step`: its speed contains the compilation.
    """

    def __init__(self, path, start_iter):
        self.file, self.start_iter = AppendedFile(path), start_iter

    def scalars(self, group, iteration, values):
        line = dict(iteration=iteration, **values)
        if group == "train" and iteration == self.start_iter + 1:
            line["first_step"] = True
        self.file.add(json.dumps(line).encode() + b"\n")

    def image(self, name, pixels, iteration):
        """JSON is no place for pictures."""

    def close(self):
        self.file.close()


class WeightsAndBiases:
    """A run of wandb, which --resume goes on with.

    Args:
        output_dir: holds config.yaml, which wandb shows, its own files and the id of the run.
        settings: `train.wandb` of the configuration.
        resume: whether to go on with the run that `output_dir` names.

    Raises:
        UserError: wandb can't begin the run: it has no login, say, or can't reach its server.
    """

    def __init__(self, output_dir, settings, resume):
        import wandb
        import wandb.errors
        from omegaconf import OmegaConf

        id_file = os.path.join(output_dir, WANDB_ID_FILE)
        run_id = None
        if resume and os.path.isfile(id_file):
            with open(id_file) as file:
                run_id = file.read().strip()
        config = OmegaConf.load(os.path.join(output_dir, "config.yaml"))
        self.wandb = wandb
        try:
            self.run = wandb.init(
                dir=output_dir,
                project=settings.project,
                name=settings.name,
                mode=settings.mode,
                config=OmegaConf.to_container(config, resolve=True),
                id=run_id,
                resume="allow",
            )
        except wandb.errors.Error as error:
            said = " ".join(str(error).split())  # it may have lines
            raise UserError(
                f"train.wandb.enabled=True, but wandb can't begin a run ({said}): wandb login, or "
                "set train.wandb.mode=offline"
            ) from None
        write_text(id_file, self.run.id)
        # Steps of wandb only go up; iterations go back when a run that broke off is resumed.
        self.run.define_metric("iteration")
        self.run.define_metric("*", step_metric="iteration")

    def scalars(self, group, iteration, values):
        named = {f"{group}/{name}": value for name, value in values.items()}
        self.run.log({"iteration": iteration, **named})

    def image(self, name, pixels, iteration):
        self.run.log({"iteration": iteration, name: self.wandb.Image(pixels)})

    def close(self):
        self.run.finish()


def _installed(package):
    return importlib.util.find_spec(package) is not None
