"""Checkpoints: LiBai folders, whole or absent, with a card that says what the model is."""
import json
import os
import shutil

import oneflow as flow
from libai.utils import distributed as dist
from libai.utils.checkpoint import Checkpointer

from projects.MAE.errors import UserError
from projects.MAE.modeling.initialization import assign, named_tensors
from projects.MAE.utils.libai_folder import CARD, find_checkpoint, read_weights


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


def check_same_run(card, current, checkpoint):
    """Raise a UserError where --resume would go on with another run than the checkpoint's.

    Args:
        card: what the checkpoint says of its run.
        current: the same of the run about to start.
    """
    where = {"global_batch_size": "train", "seed": "train"}
    for key, value in current.items():
        if key == "classes" and card.get(key, value) != value:
            raise UserError(f"--resume: {checkpoint} was trained on other class folders than the data's")
        if card.get(key, value) != value:
            raise UserError(
                f"--resume: {where.get(key, 'model')}.{key}={value}, but {checkpoint} belongs to a run "
                f"with {card[key]}: set it back, or start a new run from finetune.path"
            )


def last_iteration(output_dir):
    """Iterations done at the newest checkpoint of an output folder, 0 without one."""
    tag = os.path.join(output_dir, "last_checkpoint")
    if not os.path.isfile(tag):
        return 0
    with open(tag) as file:
        return int(file.read().strip().split("_")[-1]) + 1


class MAECheckpointer(Checkpointer):
    """LiBai's Checkpointer, written beside and renamed, with a model card.

    Attributes:
        card: a dict for the card.
    """

    card = {}

    def save(self, name, **extra):
        """Write a checkpoint folder `name`, replacing one of that name; every rank calls this."""
        parts = {"model": self.model.state_dict()}
        parts.update({key: part.state_dict() for key, part in self.checkpointables.items()})
        target = os.path.join(self.save_dir, name)
        beside = os.path.join(self.save_dir, f".{name}.partial")
        if dist.is_main_process():
            shutil.rmtree(beside, ignore_errors=True)
            os.makedirs(beside)
        dist.synchronize()
        for key, part in parts.items():
            flow.save(part, os.path.join(beside, key), global_dst_rank=0)
        if dist.is_main_process():
            with open(os.path.join(beside, CARD), "w") as file:
                json.dump({**self.card, **extra}, file, indent=1)
            old = os.path.join(self.save_dir, f".{name}.replaced")
            shutil.rmtree(old, ignore_errors=True)
            if os.path.isdir(target):
                os.rename(target, old)
            os.rename(beside, target)
            shutil.rmtree(old, ignore_errors=True)
            self.logger.info(f"Saved checkpoint {target}")
        dist.synchronize()

    def tag_last_checkpoint(self, last_filename_basename):
        """Name the newest checkpoint in `last_checkpoint`, in one step."""
        tag = os.path.join(self.save_dir, "last_checkpoint")
        with open(f"{tag}.partial", "w") as file:
            file.write(last_filename_basename)
        os.replace(f"{tag}.partial", tag)

    def resume(self):
        """Load the newest checkpoint's model, optimizer and schedule; returns its folder."""
        checkpoint = find_checkpoint(self.save_dir)
        load_weights(self.model, read_weights(checkpoint), f"--resume from {checkpoint}")
        for key, part in self.checkpointables.items():
            part.load_state_dict(
                flow.load(os.path.join(checkpoint, key), global_src_rank=0)
            )
        return checkpoint


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
