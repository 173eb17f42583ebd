"""Checkpoints: LiBai folders, whole or absent, with a card that says what the model is."""
import json
import os
import shutil

import oneflow as flow
from libai.utils import distributed as dist
from libai.utils.checkpoint import Checkpointer

from projects.MAE.checkpoint import run_folder
from projects.MAE.checkpoint.manifest import MANIFEST, describe
from projects.MAE.checkpoint.names import CARD
from projects.MAE.checkpoint.reader import read_weights
from projects.MAE.checkpoint.training_state import load_state
from projects.MAE.checkpoint.writer import FolderWriter, Part, write_part
from projects.MAE.errors import UserError
from projects.MAE.modeling.initialization import assign, named_tensors
from projects.MAE.runtime.ranks import only_on_rank_0
from projects.MAE.utils import disk


class MAECheckpointer(Checkpointer):
    """LiBai's Checkpointer: whole or absent, tensor by tensor, with a model card and a manifest.

    Args:
        model: whose weights are saved.
        run: its `Run`, with a schedule: the folder, and what the manifest says.
        card: a dict, what the model card says.
        checkpointables: an optimizer or a graph that has one, and a schedule, by name.
    """

    def __init__(self, model, run, card, **checkpointables):
        super().__init__(model, run.cfg.train.output_dir, **checkpointables)
        self.run, self.card = run, card

    def save(self, name, iteration, **extra):
        """Write a checkpoint folder `name`, replacing one of that name; every rank calls this.

        Args:
            iteration: optimizer steps done.
            extra: more for the card.

        Raises:
            UserError: the disk is full or refuses; nothing that was there has changed.
        """
        parts = {key: Part(state) for key, state in self._states().items()}
        target = os.path.join(self.save_dir, name)
        needed = sum(part.nbytes() for part in parts.values())
        only_on_rank_0(lambda: self._start(target, needed))
        writer = None
        if dist.is_main_process():
            writer = FolderWriter(run_folder.beside(self.save_dir, name, run_folder.PARTIAL))
        for key, part in parts.items():
            write_part(writer, key, part)
        only_on_rank_0(lambda: self._finish(writer, name, iteration, extra))
        if dist.is_main_process():
            self.logger.info(f"Saved checkpoint {target}")

    def check_room(self):
        """Raise a UserError on every rank where the disk has no room for one checkpoint."""
        parameters = list(self.model.parameters())
        optimizer = self.checkpointables.get("optimizer") or self.checkpointables["graph"]
        needed = sum(p.numel() for p in parameters) + optimizer_numbers(optimizer, parameters)
        only_on_rank_0(lambda: self._start(self.save_dir, 4 * needed))

    def tag_last_checkpoint(self, last_filename_basename):
        """Name the newest checkpoint in `last_checkpoint`, in one step."""
        disk.write_text(os.path.join(self.save_dir, run_folder.TAG), last_filename_basename)

    def resume(self, name):
        """Load a checkpoint's model, optimizer and schedule; every rank calls this."""
        checkpoint = os.path.join(self.save_dir, name)
        load_weights(self.model, read_weights(checkpoint), f"--resume from {checkpoint}")
        for key, part in self.checkpointables.items():
            load_state(part, os.path.join(checkpoint, key), self.model)

    def _states(self):
        states = {"model": self.model.state_dict()}
        for key, part in self.checkpointables.items():
            states[key] = part.state_dict()
            if isinstance(part, flow.nn.Graph):
                # Its model is the part "model"; what remains is the optimizer's.
                states[key] = {k: v for k, v in states[key].items() if isinstance(v, flow.Tensor)}
        return states

    def _start(self, target, needed):
        with disk.refusals(self.save_dir):
            free = disk.free_bytes(self.save_dir)
        if free < needed:
            needs, has = disk.readable_size(needed), disk.readable_size(free)
            what = f"a checkpoint needs {needs}, the disk has {has} free: {self._way_out()}"
            raise UserError(what, path=target)

    def _finish(self, writer, name, iteration, extra):
        card = {**self.card, "iteration": iteration, **extra}
        writer.file(CARD, json.dumps(card, indent=1).encode())
        classes = self.card.get("classes", ())
        content = describe(dict(writer.files), self.run, classes, iteration)
        writer.file(MANIFEST, json.dumps(content, indent=1).encode())
        writer.finish()
        try:
            if writer.error:
                raise writer.error
            run_folder.replace(self.save_dir, name)
        except OSError as error:
            why = disk.reason(error, self.save_dir)
            shutil.rmtree(writer.folder, ignore_errors=True)
            raise UserError(f"the checkpoint was not saved: {why}: {self._way_out()}") from None

    def _way_out(self):
        whole = run_folder.named_last(self.save_dir)
        there = f"{os.path.join(self.save_dir, whole)} is whole, go on from it" if whole else "start again"
        return f"free some space (train.checkpointer.max_to_keep keeps fewer); {there} with --resume"


def optimizer_numbers(optimizer, parameters):
    """Numbers that an optimizer keeps, at least: one a trained parameter, two for Adam's kind."""
    if isinstance(optimizer, flow.nn.Graph):
        optimizer = optimizer._opts[0]["optim"] if optimizer._opts else None
    moments = 2 if "Adam" in type(optimizer).__name__ else 1
    return moments * sum(p.numel() for p in parameters if p.requires_grad)


def load_weights(model, weights, source):
    """Assign a whole set of weights to a model; a UserError names the first tensor that is missing,
    left over or of another shape."""
    parameters = named_tensors(model)
    for name, parameter in parameters.items():
        if name not in weights:
            raise UserError(f"the tensor {name} is missing; is it another kind of model?", path=source)
        if tuple(parameter.shape) != weights[name].shape:
            shapes = f"{weights[name].shape}, this model needs {tuple(parameter.shape)}"
            what = f"{name} has shape {shapes}; is it a model of another size?"
            raise UserError(what, path=source)
    left = sorted(set(weights) - set(parameters))
    if left:
        raise UserError(f"unexpected tensor {left[0]}; is it another kind of model?", path=source)
    for name, parameter in parameters.items():
        assign(parameter, weights[name])
