"""Reads LiBai's checkpoint folders, without OneFlow and without running anything they hold."""
import math
import os
import re
import stat

import numpy as np

from projects.MAE.checkpoint.names import CARD, PICKLE
from projects.MAE.data.transforms import FILTERS
from projects.MAE.errors import UserError
from projects.MAE.utils.disk import read_error
from projects.MAE.utils.restricted_pickle import Built, check_length, read_pickle
from projects.MAE.utils.untrusted_file import LARGEST_JSON, json_object, open_regular, read_text

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
# What a model card may hold: a file from a stranger that is read beside weights.
CARD_TYPES = {
    "num_heads": (int, "a whole number"),
    "decoder_num_heads": (int, "a whole number"),
    "num_classes": (int, "a whole number"),
    "problem_type": (str, "a text"),
    "epoch": (int, "a whole number"),
    "iteration": (int, "a whole number"),
    "mask_ratio": (float, "a number below 1"),
    "norm_pix_loss": (bool, "true or false"),
    "global_pool": (bool, "true or false"),
    "classes": (list, "a list of names"),
    "preprocessing": (dict, "an object with resize, crop, mean, std, resample"),
    "augmentation": (dict, "an object with the settings of training"),
    "exif": (str, "apply or ignore"),
    "bits": (int, "a whole number"),
}
LARGEST_IMAGE = 16384  # pixels of a side


def read_card(checkpoint):
    """The model card of a checkpoint folder, {} where it has none (LiBai's own checkpoints)."""
    card = os.path.join(checkpoint, CARD)
    if not os.path.isfile(card):
        return {}
    try:
        content = json_object(read_text(card, LARGEST_JSON))
    except OSError as error:
        raise read_error(card, error) from None
    if not isinstance(content, dict):
        raise UserError("damaged, it is no JSON dictionary", path=card)
    check_card_types(content, card)
    return content


def check_card_types(card, source):
    """Raise a UserError, naming `source`, where a card's value is not what its readers expect."""
    for key, (kind, words) in CARD_TYPES.items():
        value = card.get(key)
        if value is None:
            continue
        is_names = kind is not list or type(value) is list and all(type(x) is str for x in value)
        if type(value) is not kind or not is_names:
            raise UserError(f"damaged, {key} must be {words}", path=source)
    if card.get("exif") not in (None, "apply", "ignore") or not 8 <= (card.get("bits") or 16) <= 16:
        raise UserError("damaged, exif must be apply or ignore, and bits 8 to 16", path=source)
    check_preprocessing(card.get("preprocessing") or {}, source)


def check_preprocessing(told, source):
    """Raise a UserError for fields, {name: value}, that `Preprocessing` can't be made of."""
    for key, value in told.items():
        if key == "resample":
            fits = value in FILTERS
        elif key in ("mean", "std"):
            fits = _is_list(value, 3, is_finite) and (key == "mean" or min(value) > 0)
        else:
            fits = key in ("resize", "crop") and is_side(value)
            fits = fits or key == "resize" and _is_list(value, 2, is_side)
        if not fits:
            raise UserError(f"damaged, preprocessing can't be with {key}={str(value)[:80]}", path=source)


def _is_list(value, count, fits):
    return isinstance(value, (list, tuple)) and len(value) == count and all(map(fits, value))


def is_side(value):
    """Whether a value is a number of pixels that an image may have."""
    return type(value) is int and 0 < value <= LARGEST_IMAGE


def is_finite(value):
    """Whether a value is a number that a mean or standard deviation may be."""
    return type(value) in (int, float) and abs(value) < 1e6


def read_weights(checkpoint):
    """{name: float32 array} of a checkpoint folder's model.

    One rank writes whole tensors, however many held them, so this reads the checkpoints of every
    parallel layout.

    Raises:
        UserError: truncated, or it holds code.
    """
    state = read_part(os.path.join(checkpoint, "model"))
    if not isinstance(state, dict):
        raise UserError("its model is no dictionary of tensors", path=checkpoint)
    weights, folders = {}, set()
    for name, tensor in state.items():
        if not isinstance(name, str):
            raise UserError(f"a {type(name).__name__} stands for a name in its model", path=checkpoint)
        if not isinstance(tensor, Tensor):
            raise UserError(f"{name} in its model is no tensor", path=checkpoint)
        if tensor.folder in folders:
            raise UserError(f"refused: {tensor.folder} stands for several tensors", path=checkpoint)
        folders.add(tensor.folder)
        weights[name] = tensor.read(name).astype(np.float32, copy=False)
    return weights


def read_part(folder):
    """The object `flow.save` wrote to a folder; tensors as objects with a method `read(name)`."""
    pickle = os.path.join(folder, PICKLE)
    try:
        with open_regular(pickle) as file:
            check_length(os.fstat(file.fileno()).st_size, pickle)
            data = file.read()
    except OSError as error:
        raise read_error(pickle, error) from None

    def tensor(*unused):
        value = Tensor(folder)
        return Built(value, value.take)

    known = {
        "oneflow.Tensor": tensor,
        "oneflow.nn.Parameter": tensor,
        **OMEGACONF,
    }
    saved = read_pickle(data, pickle, known)
    if not isinstance(saved, dict) or saved.get("protocol_version") != 1:
        raise UserError("not written by oneflow.save, or by a newer one", path=pickle)
    if "data" not in saved:
        raise UserError("damaged, it holds no data", path=pickle)
    return saved["data"]


def check_part(folder):
    """Raise a UserError where a part can't be read whole. A file beside the parts is none."""
    if os.path.isdir(folder):
        read_part_with(folder, lambda tensor: tensor.check(os.path.basename(folder)))


def read_part_with(folder, function):
    """`read_part`, with each `Tensor` inside dicts, lists and tuples replaced by function(tensor)."""
    try:
        return replace_tensors(read_part(folder), function)
    except RecursionError:
        raise UserError("damaged, it is nested too deep", path=folder) from None


def replace_tensors(value, function):
    """A value of a part, with each `Tensor` in its dicts, lists and tuples replaced."""
    if isinstance(value, Tensor):
        return function(value)
    if isinstance(value, dict):
        return {key: replace_tensors(item, function) for key, item in value.items()}
    if isinstance(value, (list, tuple)):
        return type(value)(replace_tensors(item, function) for item in value)
    return value


class _Node:
    """A plain value inside a container of omegaconf."""

    def take(self, state):
        self.value = state["_val"]


def _omegaconf_node():
    node = _Node()
    return Built(node, node.take)


def _unwrapped(item):
    return item.value if isinstance(item, _Node) else item


def _taken(container):
    """What a container held. It is empty then: a pickle that names it often would fill memory."""
    content = container.copy()
    container.clear()
    return content


def _omegaconf_list():
    values = []
    return Built(values, lambda state: values.extend(map(_unwrapped, _taken(state["_content"]))))


def _omegaconf_dict():
    values = {}

    def take(state):
        content = _taken(state["_content"])
        values.update((key, _unwrapped(item)) for key, item in content.items())

    return Built(values, take)


# The optimizer's options (betas) are lists of omegaconf where LiBai or earlier versions saved them.
OMEGACONF = {
    "omegaconf.dictconfig.DictConfig": _omegaconf_dict,
    "omegaconf.listconfig.ListConfig": _omegaconf_list,
    "omegaconf.nodes.AnyNode": _omegaconf_node,
    "omegaconf.base.ContainerMetadata": lambda *unused: {},
    "omegaconf.base.Metadata": lambda *unused: {},
    "collections.defaultdict": lambda *unused: {},
    "typing.Any": None,
    "builtins.dict": None,
    "builtins.int": None,
    "builtins.list": None,
    "builtins.tuple": None,
}


class Tensor:
    """A tensor of a folder: a subfolder with `meta` (shape and type, text) and `out` (numbers)."""

    def __init__(self, folder):
        self.folder = folder

    def take(self, state):
        """{"path": subfolder}"""
        name = state["path"]
        if not isinstance(name, str) or len(name) > 255 or not name.isprintable():
            raise ValueError("a tensor without a folder")
        if os.path.basename(name) != name or name in ("", ".", ".."):
            raise UserError(f"refused: a tensor outside the folder ({name})", path=self.folder)
        self.folder = os.path.join(self.folder, name)

    def read(self, name):
        """The numbers; `name` is for errors."""
        dtype, shape = self.check(name)
        return np.fromfile(os.path.join(self.folder, "out"), dtype).reshape(shape)

    def check(self, name):
        """Type and shape of the tensor; a UserError unless its file has their size."""
        data = os.path.join(self.folder, "out")
        try:
            with open_regular(os.path.join(self.folder, "meta")) as file:
                meta = file.read(LONGEST_META).decode("utf-8", "replace")
            found = os.stat(data)
        except FileNotFoundError as error:
            raise UserError(f"missing, it is part of {name}", path=error.filename) from None
        except OSError as error:
            raise read_error(error.filename or self.folder, error) from None
        except ValueError as error:
            raise UserError(f"{name} can't be read: {error}", path=self.folder) from None
        kind = re.search(r"data_type:\s*(\w+)", meta)
        if not kind or kind.group(1) not in DTYPES:
            raise UserError(f"{name} has an unknown type of numbers", path=self.folder)
        dtype = np.dtype(DTYPES[kind.group(1)])
        shape = tuple(int(n) for n in re.findall(r"dim:\s*(\d{1,19})(?!\d)", meta))
        if len(shape) > MOST_AXES:
            raise UserError(f"{name} has {len(shape)} axes; the checkpoint is damaged", path=self.folder)
        if not stat.S_ISREG(found.st_mode):
            raise UserError("not a regular file", path=data)
        size, needed = found.st_size, math.prod(shape) * dtype.itemsize
        if size != needed:
            sizes = f"needs {needed} bytes, the file has {size}"
            what = f"{name} of shape {shape} {sizes}; the checkpoint is damaged"
            raise UserError(what, path=data)
        return dtype, shape
