"""Checkpoints: LiBai folders, whole or absent, with a card that says what the model is."""
import functools
import json
import os
import shutil

import oneflow as flow
from libai.utils import distributed as dist
from libai.utils.checkpoint import Checkpointer

from projects.MAE.errors import UserError
from projects.MAE.modeling.initialization import assign, named_tensors
from projects.MAE.utils import disk, run_folder
from projects.MAE.utils.agreement import only_on_rank_0
from projects.MAE.utils.folder_lock import FolderLock
from projects.MAE.utils.libai_folder import CARD, read_card, read_weights
from projects.MAE.utils.manifest import MANIFEST, describe
from projects.MAE.utils.part_writer import FolderWriter, Part, write_part
from projects.MAE.utils.training_state import load_state

# What a card's entries are called in messages, where that is not model.KEY.
NAMES = {
    "global_batch_size": "train.global_batch_size",
    "seed": "train.seed",
    "model": "model",
    "optimizer": "optim",
    "images": "training images",
}
LISTS = {"classes": "class folders", "image_list": "names of the training images"}
LOCK_SECONDS = 10  # that a resumed run waits for a killed one to be gone


def check_card(card, dataset, checkpoint):
    """Raise a UserError where a classifier's labels mean other classes than the data's do."""
    if card.get("classes") and "num_classes" in card and card["classes"] != list(dataset.classes):
        differing = sorted(set(card["classes"]) ^ set(dataset.classes))
        raise UserError(
            f"{checkpoint}: it was trained on the classes {', '.join(card['classes'][:3])}, ... "
            f"({len(card['classes'])}), but {dataset.images.root} has other class folders "
            f"({', '.join(differing[:3])}): evaluate on the same class folders"
        )


def check_heads(card, model_cfg, checkpoint):
    """Raise a UserError where a model differs from its weights in what no tensor's shape shows."""
    for key in ("num_heads", "decoder_num_heads", "global_pool"):
        if key in card and key in model_cfg and card[key] != model_cfg[key]:
            raise UserError(
                f"model.{key}={model_cfg[key]}, but {checkpoint} was trained with {card[key]}: set "
                f"model.{key}={card[key]}"
            )


def difference_of_runs(card, current):
    """Where a checkpoint's run differs from another, None where it may go on as that one.

    Args:
        card: what the checkpoint says of its run.
        current: the same of the other run, or a part of it.

    Returns:
        What differs, its value in the other run, and that in the checkpoint's.
    """
    for key, value in current.items():
        # Preprocessing is that of evaluation and of other programs.
        if key == "preprocessing" or card.get(key, value) == value:
            continue
        if key in LISTS:  # too long to be printed
            return LISTS[key], "the data's", "others"
        return NAMES.get(key, f"model.{key}"), value, card[key]
    return None


def check_same_run(card, current, checkpoint):
    """Raise a UserError where --resume would go on with another run than the checkpoint's."""
    difference = difference_of_runs(card, current)
    if difference:
        name, ours, theirs = difference
        raise UserError(
            f"--resume: {name}={ours}, but {checkpoint} belongs to a run with {theirs}: set it back, or "
            "start a new run from finetune.path in another train.output_dir"
        )


def open_output_folder(folder, resume, card, parts=(), dry_run=False):
    """Look at an output folder before a run starts there, and keep other runs out of it from now on.

    Every rank calls this; rank 0 holds the folder until its process ends.

    Args:
        folder: `train.output_dir`; made where it is missing.
        resume: go on from its newest whole checkpoint. What is damaged is set aside.
        card: what the run about to start says of itself, as far as it is known without the data.
        parts: of a checkpoint that the run needs to go on, besides the model.
        dry_run: the checkpoints of an earlier dry run may be deleted.

    Returns:
        The checkpoint's name, "" for a run from the start.

    Raises:
        UserError: the folder holds another run, or one that would have to be resumed; a live run
            has it; nothing in it is whole; it can't be written to.
    """

    def hold_and_look():
        disk.check_writable("train.output_dir", folder)
        lock = FolderLock(folder, LOCK_SECONDS if resume else 0)
        try:
            return look()
        except UserError:
            lock.release()  # a folder that is refused stays as it is
            raise

    def look():
        if not resume:
            if dry_run:
                run_folder.remove_checkpoints(folder)
            run_folder.clear_for_new_run(
                folder, lambda checkpoint: difference_of_runs(read_card(checkpoint), card)
            )
            return ""
        name = run_folder.checkpoint_to_resume(folder)
        if name:
            checkpoint = os.path.join(folder, name)
            check_same_run(read_card(checkpoint), card, checkpoint)
            _check_parts(checkpoint, parts)
        return name

    return only_on_rank_0(hold_and_look)


def _check_parts(checkpoint, parts):
    for part in parts:
        if not os.path.isdir(os.path.join(checkpoint, part)):
            modes = {"graph": ("True", "eager"), "optimizer": ("False", "graph")}
            value, other = modes.get(part, ("", "another"))
            hint = f": set graph.enabled={other == 'graph'}" if value else ""
            raise UserError(
                f"--resume: {checkpoint} holds no part {part}, it was written in {other} mode{hint}"
            )


class MAECheckpointer(Checkpointer):
    """LiBai's Checkpointer: whole or absent, tensor by tensor, with a model card and a manifest.

    Attributes:
        card: a dict for the card.
        cfg: the run's configuration, for the manifest.
        samples: size of the training data.
    """

    card, cfg, samples = {}, None, 0

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
        start = functools.partial(self._start, target, sum(p.nbytes() for p in parts.values()))
        only_on_rank_0(start)
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
        needed = sum(p.numel() for p in parameters)
        needed += optimizer_numbers(optimizer, parameters)
        only_on_rank_0(functools.partial(self._start, self.save_dir, 4 * needed))

    def tag_last_checkpoint(self, last_filename_basename):
        """Name the newest checkpoint in `last_checkpoint`, in one step."""
        disk.write_text(os.path.join(self.save_dir, run_folder.TAG), last_filename_basename)

    def resume(self, name):
        """Load a checkpoint's model, optimizer and schedule; every rank calls this.

        Raises:
            UserError: it is of another model, or holds code.
        """
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
        with disk.told("train.output_dir", self.save_dir):
            free = disk.free_bytes(self.save_dir)
        if free < needed:
            raise UserError(
                f"{target}: a checkpoint needs {disk.readable_size(needed)}, the disk has "
                f"{disk.readable_size(free)} free: {self._way_out()}"
            )

    def _finish(self, writer, name, iteration, extra):
        partial = writer.folder
        card = {**self.card, "iteration": iteration, **extra}
        writer.file(CARD, json.dumps(card, indent=1).encode())
        classes = self.card.get("classes", ())
        content = describe(dict(writer.files), self.cfg, classes, iteration, self.samples)
        writer.file(MANIFEST, json.dumps(content, indent=1).encode())
        writer.finish()
        try:
            if writer.error:
                raise writer.error
            run_folder.replace(self.save_dir, name)
        except OSError as error:
            why = disk.reason(error, self.save_dir)
            shutil.rmtree(partial, ignore_errors=True)
            raise UserError(f"the checkpoint was not saved: {why}: {self._way_out()}") from None

    def _way_out(self):
        whole = run_folder.named_last(self.save_dir)
        there = f"{os.path.join(self.save_dir, whole)} is whole, go on from it" if whole else "start again"
        return f"free some space (train.checkpointer.max_to_keep keeps fewer); {there} with --resume"


def optimizer_numbers(optimizer, parameters):
    """Numbers that an optimizer keeps, at least: one a trained parameter, two for Adam's kind."""
    found = optimizer
    if isinstance(optimizer, flow.nn.Graph):
        found = optimizer._opts[0]["optim"] if optimizer._opts else None
    moments = 2 if "Adam" in type(found).__name__ else 1
    return moments * sum(p.numel() for p in parameters if p.requires_grad)


def load_weights(model, weights, source):
    """Assign a whole set of weights to a model.

    Raises:
        UserError: a tensor is missing, left over or of another shape; names the first.
    """
    parameters = named_tensors(model)
    for name, parameter in parameters.items():
        if name not in weights:
            raise UserError(f"{source}: the tensor {name} is missing; is it another kind of model?")
        if tuple(parameter.shape) != weights[name].shape:
            raise UserError(
                f"{source}: {name} has shape {weights[name].shape}, this model needs "
                f"{tuple(parameter.shape)}; is it a model of another size?"
            )
    left = sorted(set(weights) - set(parameters))
    if left:
        raise UserError(f"{source}: unexpected tensor {left[0]}; is it another kind of model?")
    for name, parameter in parameters.items():
        assign(parameter, weights[name])
