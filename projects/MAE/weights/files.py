"""Reads weight files of other projects; recognises what they are by looking."""
import argparse
import json
import logging
import os

import numpy as np

from projects.MAE.checkpoint.names import has_checkpoint
from projects.MAE.checkpoint.reader import check_card_types
from projects.MAE.errors import LONGEST, UserError, printable
from projects.MAE.utils.untrusted_file import LARGEST_JSON, open_regular, parse_json, read_text
from projects.MAE.weights.folder_config import check_agree, read_processor, read_timm
from projects.MAE.weights.nesting import find_weights
from projects.MAE.weights.sizes import MOCO, check_names, is_moco
from projects.MAE.weights.torch_file import bfloat16_to_float32, check_start, read_torch_file
from projects.MAE.weights.transformers_names import from_transformers, is_transformers, read_config

logger = logging.getLogger("libai." + __name__)

# The authors' linear probe: a batch normalisation without affine, and a linear layer.
PROBE = {f"head.0.{name}": f"feature_norm.{name}" for name in ("running_mean", "running_var")}
PROBE.update({f"head.1.{name}": f"head.{name}" for name in ("weight", "bias")})
INDEX = ".index.json"  # names several files
LONGEST_HEADER = 1 << 23  # bytes of safetensors' list of tensors; ViT-Huge's has a hundredth
# In a folder of transformers, the first that is there.
FOLDER_FILES = (
    "model.safetensors",
    f"model.safetensors{INDEX}",
    "pytorch_model.bin",
    f"pytorch_model.bin{INDEX}",
)


def check_weight_file(path):
    """Raise a UserError where `read_weight_file` would fail at once: no such file, say."""
    path = str(path)
    if os.path.isdir(path):
        _folder_file(path)
    elif path.endswith(INDEX) and os.path.isfile(path):
        _read_json(path)
    elif path.endswith(".json") and os.path.isfile(path):
        raise UserError("it describes weights: name the folder it is in, or the weights", path=path)
    elif not _is_safetensors(path):
        check_start(path)


def check_no_ema(path, ema):
    """Raise a UserError where averaged weights of a LiBai checkpoint are asked for."""
    if ema:
        what = "a LiBai checkpoint has no averaged weights: leave --ema or finetune.ema out"
        raise UserError(what, path=path)


def read_weight_file(path, ema=False):
    """The tensors of a weight file in the authors' names, and what else it says.

    Args:
        path: a torch file of the authors or of timm (a dict with the key `model` or `state_dict`,
            or a dict of tensors), a safetensors file, or a folder of transformers' ViT or ViTMAE.
        ema: see `read_weight_file_told`.

    Returns:
        {name: float32 array} in the authors' names and layout; and a dict of what is known: of
        num_heads, decoder_num_heads, norm_pix_loss, mask_ratio, num_classes, classes, problem_type,
        epoch, preprocessing; sizes that a config.json names (img_size, patch_size, in_chans,
        embed_dim, depth, mlp_width); and all that a model card says besides, as it stands.

    Raises:
        UserError: it can't be read, or its layout is not a known one.
    """
    state, told = read_weight_file_told(path, ema)
    return state, {key: value for facts in told.values() for key, value in facts.items()}


def read_weight_file_told(path, ema=False):
    """`read_weight_file`, with the facts by who tells them: {"its model card": {...}, ...}.

    Where two tell of the same, the later one counts. What was stripped of the names is logged.

    Args:
        ema: take the averaged weights that training keeps beside the raw ones; a UserError where
            there are none.
    """
    check_weight_file(path)
    path = str(path).rstrip("/")
    told = {}
    file = os.path.join(path, _folder_file(path)) if os.path.isdir(path) else path
    saved = _read_parts(file) if file.endswith(INDEX) else _read_file(file)
    state, words, lines = find_weights(saved, ema, path)
    check_tensors(state, path)
    if "head.0.running_mean" in state:  # without it head.0 may be anything that has no tensors
        state = {PROBE.get(name, name): state[name] for name in state}
        state.pop("head.0.num_batches_tracked", None)
    if is_moco(state, words, saved.get("arch")):
        told[MOCO] = {"num_heads": 12}
    if not os.path.isdir(path):
        told["its training arguments"] = _training_facts(saved)
    told.update(_told_beside(state, path))
    check_agree({teller: facts for teller, facts in told.items() if teller != MOCO}, path)  # a guess
    if is_transformers(state):
        state = from_transformers(state, path)
    check_names(state, path)
    check_total(state, path)
    state = {name: _float32(array, name, path) for name, array in state.items()}
    for line in lines:
        logger.warning(printable(line[:LONGEST]))
    return state, told


def _told_beside(state, path):
    """What the files beside weights say, by their names: the same whether the folder or the file in
    it is named."""
    folder = path if os.path.isdir(path) else os.path.dirname(path)
    cards, told = [card_path(path)], {}
    if os.path.isdir(path) or os.path.basename(path) in FOLDER_FILES:
        cards.append(os.path.join(folder, "model_card.json"))
    for card in dict.fromkeys(cards):
        content = _read_json(card)
        check_card_types(content, card)
        if content:
            told["its model card"] = content
    config = _read_json(os.path.join(folder, "config.json"))
    if is_transformers(state):
        where = os.path.join(folder, "preprocessor_config.json")
        told["its config.json"] = read_config(config, folder) if config else {}
        told["its preprocessor_config.json"] = read_processor(_read_json(where), where)
    elif len(cards) > 1:  # a folder's: anything may lie beside a file of another name
        told["its config.json"] = read_timm(config, state, os.path.join(folder, "config.json"))
    return told


def card_path(path):
    """Where the model card of a weight file or folder lies."""
    return os.path.join(path, "model_card.json") if os.path.isdir(path) else f"{path}.json"


def check_total(state, path):
    """Raise a UserError where tensors, as float32, need far more than the files that hold them.

    One tensor can stand under many names, and is copied for each when it becomes float32.
    """
    folder = os.path.dirname(os.path.abspath(path)) if path.endswith(INDEX) else path
    if os.path.isdir(folder):
        with os.scandir(folder) as entries:
            size = sum(entry.stat().st_size for entry in entries if entry.is_file())
    else:
        size = os.path.getsize(path)
    if sum(4 * array.size for array in state.values()) > 8 * size:
        raise UserError("refused: its tensors stand for far more than it holds", path=path)


def _is_safetensors(path):
    """safetensors begin with the length of a JSON header, eight bytes, and its brace."""
    try:
        with open_regular(path) as file:
            start = file.read(9)
    except OSError as error:
        raise UserError(f"{error.strerror}", path=path) from None
    if start[8:] == b"{" and int.from_bytes(start[:8], "little") > LONGEST_HEADER:
        raise UserError(f"refused: its header has more than {LONGEST_HEADER} bytes", path=path)
    return start[8:] == b"{"


def _folder_file(folder):
    if has_checkpoint(folder):
        what = "a LiBai checkpoint, no weights of PyTorch: finetune.weight_style=oneflow"
        raise UserError(what, path=folder)
    for name in FOLDER_FILES:
        if os.path.isfile(os.path.join(folder, name)):
            if not os.path.isfile(os.path.join(folder, "config.json")):
                raise UserError(f"no config.json beside {name}", path=folder)
            return name
    raise UserError(f"a folder without weights ({', '.join(FOLDER_FILES[::2])})", path=folder)


def _read_parts(index):
    """The tensors of all the files that an index names."""
    folder, name = os.path.split(index)
    state, parts = {}, _read_json(index).get("weight_map")
    if not isinstance(parts, dict) or not all(isinstance(part, str) for part in parts.values()):
        raise UserError(f"{name} is damaged: its weight_map does not name files", path=folder)
    for part in sorted(set(parts.values())):
        if os.path.basename(part) != part or not part.isprintable():
            raise UserError(f"refused: {name} names a file outside the folder ({part!r})", path=folder)
        state.update(_read_file(os.path.join(folder, part)))
    return state


def _read_file(path):
    """The dictionary in one torch or safetensors file."""
    if _is_safetensors(path):
        return _read_safetensors(path)
    saved = read_torch_file(path)
    if not isinstance(saved, dict):
        raise UserError(f"holds a {type(saved).__name__}, not a dictionary of tensors", path=path)
    return saved


def check_tensors(state, path):
    """Raise a UserError unless a dictionary holds names and arrays alone."""
    for name, value in state.items():
        if not isinstance(name, str):
            raise UserError(f"a tensor has a {type(name).__name__} for a name", path=path)
        if not isinstance(value, np.ndarray):
            wanted = "a dictionary of tensors, or one under the key model or state_dict"
            what = f"{name} is no tensor but a {type(value).__name__}; expected {wanted}"
            raise UserError(what, path=path)


def _read_safetensors(path):
    try:  # a LiBai checkout that this project was copied into need not have the package
        from safetensors import SafetensorError, safe_open
    except ModuleNotFoundError:
        raise UserError("reading it needs a package: pip install safetensors", path=path) from None
    try:
        with safe_open(path, "np") as file:  # it checks all sizes and places
            kinds = {name: file.get_slice(name).get_dtype() for name in file.keys()}
            state = {n: file.get_tensor(n) for n, kind in kinds.items() if kind != "BF16"}
        return {**state, **_read_bfloat16(path, [name for name in kinds if name not in state])}
    except (SafetensorError, KeyError, TypeError, ValueError, OverflowError) as error:
        what = f"damaged, truncated or with numbers of a type NumPy lacks ({error})"
        raise UserError(what, path=path) from None


def _read_bfloat16(path, names):
    """{name: float32 array} of a safetensors file's tensors of bfloat16, which NumPy has not."""
    if not names:
        return {}
    with open(path, "rb") as file:
        length = int.from_bytes(file.read(8), "little")
        header = json.loads(file.read(length))
    data, state = np.memmap(path, np.uint8, "r", 8 + length), {}
    for name in names:
        start, end = header[name]["data_offsets"]
        bits = np.frombuffer(data[start:end].tobytes(), "<u2")
        state[name] = bfloat16_to_float32(bits.reshape(header[name]["shape"]))
    return state


def _training_facts(saved):
    """What the authors' training files say beside the weights."""
    facts = {"epoch": saved["epoch"]} if type(saved.get("epoch")) is int else {}
    if isinstance(saved.get("args"), argparse.Namespace):
        for key, kind in (("norm_pix_loss", bool), ("mask_ratio", float)):
            if isinstance(getattr(saved["args"], key, None), kind):
                facts[key] = getattr(saved["args"], key)
    return facts


def _read_json(path):
    if not os.path.isfile(path):
        return {}
    try:
        content = parse_json(read_text(path, LARGEST_JSON))
    except (ValueError, OSError) as error:
        raise UserError(f"not JSON ({error})", path=path) from None
    if not isinstance(content, dict):
        raise UserError("not a JSON object", path=path)
    return content


def _float32(array, name, path):
    if array.dtype.kind != "f":
        raise UserError(f"{name} holds {array.dtype}, not floating-point numbers", path=path)
    return np.ascontiguousarray(array, np.float32)
