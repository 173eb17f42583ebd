"""Writes weight files and folders: whole or not at all, each with a model card."""
import contextlib
import importlib.util
import json
import os
import shutil

import numpy as np
from safetensors.numpy import save_file

from projects.MAE.checkpoint.names import CARD, is_checkpoint
from projects.MAE.checkpoint.run_folder import remove
from projects.MAE.errors import UserError
from projects.MAE.runtime.single_process import import_oneflow
from projects.MAE.utils.disk import replaced, write_text
from projects.MAE.weights.files import card_path


def check_target(path, force):
    """Raise a UserError where `path` exists and may not be replaced: with `force` that is a folder
    that holds no model, and the output folder of a run."""
    for there in (path, card_path(path)):
        if os.path.lexists(there) and not force:
            raise UserError("exists already; --force replaces it", path=there)
    config = os.path.join(path, "config.json")
    if os.path.isdir(path) and not os.path.isfile(config) and not is_checkpoint(path):
        raise UserError("--force does not replace a folder that holds no model", path=path)
    if os.path.isfile(os.path.join(path, "last_checkpoint")):
        raise UserError("--force does not replace the output folder of a run", path=path)


def check_can_write_pth():
    """Raise a UserError without PyTorch, which writes .pth files."""
    if importlib.util.find_spec("torch") is None:
        raise UserError(
            "writing a .pth file needs PyTorch, which is not installed: pip install torch==1.13.1, "
            "or use --format safetensors"
        )


def write_file(path, state, file_format, card):
    """Write {name: array} as a torch file {"model": tensors} ("pth") or as "safetensors"."""
    if os.path.isdir(path):
        raise UserError(f"is a folder, and {file_format} weights are a file", path=path)
    os.makedirs(os.path.dirname(os.path.abspath(path)), exist_ok=True)
    with replaced(path) as beside:
        if file_format == "pth":
            import torch

            tensors = {name: torch.from_numpy(np.array(array)) for name, array in state.items()}
            torch.save({"model": tensors}, beside)
        else:
            _write_safetensors(beside, state)
        write_json(card_path(path), card)


def write_transformers(path, state, config, processor, card):
    """Write a folder of transformers: config.json, preprocessor_config.json, the tensors, the card."""
    with _replaced_folder(path) as folder:
        _write_safetensors(os.path.join(folder, "model.safetensors"), state)
        write_json(os.path.join(folder, "config.json"), config)
        write_json(os.path.join(folder, "preprocessor_config.json"), processor)
        write_json(os.path.join(folder, "model_card.json"), card)


def write_libai(path, state, card):
    """Write a LiBai checkpoint folder with the part `model`, from LiBai's names."""
    flow = import_oneflow()
    with _replaced_folder(path) as folder:
        tensors = {name: flow.from_numpy(np.array(array)) for name, array in state.items()}
        flow.save(tensors, os.path.join(folder, "model"))
        write_json(os.path.join(folder, CARD), card)


def write_json(path, content):
    write_text(path, json.dumps(content, indent=1) + "\n")


def _write_safetensors(path, state):
    # timm and transformers ask for this entry.
    save_file({n: np.ascontiguousarray(a) for n, a in state.items()}, path, {"format": "pt"})


@contextlib.contextmanager
def _replaced_folder(path):
    """Replace a file, folder or link by a new folder, yielded to be filled, when that is whole."""
    folder, name = os.path.split(os.path.abspath(path))
    os.makedirs(folder, exist_ok=True)
    beside = os.path.join(folder, f".{name}.partial")  # from where a rename is one step
    shutil.rmtree(beside, ignore_errors=True)  # of a conversion that was killed
    try:
        os.mkdir(beside)
        yield beside
        if os.path.lexists(path):
            old = f"{beside}.replaced"
            os.rename(path, old)
            os.rename(beside, path)
            remove(old)
        else:
            os.rename(beside, path)
    finally:
        shutil.rmtree(beside, ignore_errors=True)
