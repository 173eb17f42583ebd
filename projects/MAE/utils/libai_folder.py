"""Reads LiBai's checkpoint folders, without OneFlow and without running anything they hold."""
import json
import math
import os
import re

import numpy as np

from projects.MAE.errors import UserError
from projects.MAE.utils.card_types import check_card_types
from projects.MAE.utils.restricted_pickle import Built, ordered_dict, read_pickle

# The card lies inside the part "model": LiBai reads every entry of a checkpoint folder as a part.
CARD = os.path.join("model", "model_card.json")
LONGEST_META = 10_000  # characters
MOST_AXES = 32  # NumPy's
# OneFlow's names of number types, in the file `meta` beside a tensor.
DTYPES = {
    "kFloat": "f4",
    "kDouble": "f8",
    "kFloat16": "f2",
    "kInt8": "i1",
    "kUInt8": "u1",
    "kInt32": "i4",
    "kInt64": "i8",
    "kBool": "?",
}


def find_checkpoint(path):
    """The checkpoint folder that a path means.

    Args:
        path: a checkpoint (a folder that holds `model`), its `model`, or the output folder of a
            run, which stands for its newest checkpoint.

    Raises:
        UserError: there is none.
    """
    path = str(path).rstrip("/")
    if not os.path.exists(path):
        raise UserError(f"{path}: no such file or folder")
    if os.path.isfile(os.path.join(path, "last_checkpoint")):
        with open(os.path.join(path, "last_checkpoint"), errors="replace") as file:
            name = file.read(1000).strip()
        if name != os.path.basename(name) or name in ("", ".", ".."):
            raise UserError(f"{path}: its last_checkpoint names no checkpoint")
        path = os.path.join(path, name)
    if os.path.isfile(os.path.join(path, "pickled_data")):
        path = os.path.dirname(path)
    if not os.path.isfile(os.path.join(path, "model", "pickled_data")):
        raise UserError(f"{path}: not a checkpoint folder (it holds no 'model')")
    return path


def is_checkpoint(path):
    """Whether `find_checkpoint` has one to look for: a folder that LiBai wrote."""
    marks = ("last_checkpoint", "pickled_data", os.path.join("model", "pickled_data"))
    return any(os.path.isfile(os.path.join(path, mark)) for mark in marks)


def read_card(checkpoint):
    """The model card of a checkpoint folder, {} where it has none (LiBai's own checkpoints)."""
    card = os.path.join(checkpoint, CARD)
    if not os.path.isfile(card):
        return {}
    try:
        with open(card) as file:
            content = json.load(file)
    except (ValueError, RecursionError):
        content = None
    if not isinstance(content, dict):
        raise UserError(f"{card}: damaged, it is no JSON dictionary")
    check_card_types(content, card)
    return content


def read_weights(checkpoint):
    """{name: float32 array} of a checkpoint folder's model.

    One rank writes whole tensors, however many held them, so this reads the checkpoints of every
    parallel layout.

    Raises:
        UserError: truncated, or it holds code.
    """
    state = read_part(os.path.join(checkpoint, "model"))
    if not isinstance(state, dict):
        raise UserError(f"{checkpoint}: its model is no dictionary of tensors")
    weights, folders = {}, set()
    for name, tensor in state.items():
        if not isinstance(name, str):
            raise UserError(f"{checkpoint}: a {type(name).__name__} stands for a name in its model")
        if not isinstance(tensor, _Tensor):
            raise UserError(f"{checkpoint}: {name} in its model is no tensor")
        if tensor.folder in folders:
            raise UserError(f"{checkpoint}: refused: {tensor.folder} stands for several tensors")
        folders.add(tensor.folder)
        weights[name] = tensor.read(name).astype(np.float32, copy=False)
    return weights


def read_part(folder):
    """The object `flow.save` wrote to a folder; tensors as objects with a method `read(name)`."""
    pickle = os.path.join(folder, "pickled_data")
    with open(pickle, "rb") as file:
        data = file.read()

    def tensor(*unused):
        value = _Tensor(folder)
        return Built(value, value.take)

    known = {
        "collections.OrderedDict": ordered_dict,
        "oneflow.Tensor": tensor,
        "oneflow.nn.Parameter": tensor,
    }
    saved = read_pickle(data, pickle, known)
    if not isinstance(saved, dict) or saved.get("protocol_version") != 1:
        raise UserError(f"{pickle}: not written by oneflow.save, or by a newer one")
    if "data" not in saved:
        raise UserError(f"{pickle}: damaged, it holds no data")
    return saved["data"]


class _Tensor:
    """A tensor of a folder: a subfolder with `meta` (shape and type, text) and `out` (numbers)."""

    def __init__(self, folder):
        self.folder = folder

    def take(self, state):
        """{"path": subfolder}"""
        name = state["path"]
        if not isinstance(name, str) or not name.isprintable():
            raise ValueError("a tensor without a folder")
        if os.path.basename(name) != name or name in ("", ".", ".."):
            raise UserError(f"{self.folder}: refused: a tensor outside the folder ({name})")
        self.folder = os.path.join(self.folder, name)

    def read(self, name):
        data = os.path.join(self.folder, "out")
        try:
            with open(os.path.join(self.folder, "meta"), errors="replace") as file:
                meta = file.read(LONGEST_META)
            size = os.path.getsize(data)
        except FileNotFoundError as error:
            raise UserError(f"{error.filename}: missing, it is part of {name}") from None
        except (OSError, ValueError) as error:
            raise UserError(f"{self.folder}: {name} can't be read: {error}") from None
        kind = re.search(r"data_type:\s*(\w+)", meta)
        if not kind or kind.group(1) not in DTYPES:
            raise UserError(f"{self.folder}: {name} has an unknown type of numbers")
        dtype = np.dtype(DTYPES[kind.group(1)])
        shape = tuple(int(n) for n in re.findall(r"dim:\s*(\d{1,19})(?!\d)", meta))
        if len(shape) > MOST_AXES:
            raise UserError(f"{self.folder}: {name} has {len(shape)} axes; the checkpoint is damaged")
        if size != math.prod(shape) * dtype.itemsize:
            raise UserError(
                f"{data}: {name} of shape {shape} needs {math.prod(shape) * dtype.itemsize} bytes, "
                f"the file has {size}; the checkpoint is damaged"
            )
        return np.fromfile(data, dtype).reshape(shape)
