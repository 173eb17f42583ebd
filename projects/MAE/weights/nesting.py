"""Finds the ViT in what a file holds: wrappers' prefixes, nesting, averaged weights beside raw ones."""
import collections
import re

import numpy as np

from projects.MAE.errors import UserError

# What a model's tensors stand below, as keys of dictionaries or as parts of names: DataParallel,
# torch.compile, MoCo v3 (base_encoder, momentum_encoder), DINO (student, teacher, backbone), ...
# Of self-supervised learning, the network that is trained and its moving average.
TRAINED = {"base_encoder", "encoder_q", "query_encoder", "online_encoder", "student"}
FOLLOWING = {"momentum_encoder", "encoder_k", "key_encoder", "target_encoder", "teacher"}
METHODS = TRAINED | FOLLOWING
WRAPPERS = {
    *("module", "_orig_mod", "backbone", "encoder", "model", "vit", "net", "network"),
    *("state_dict", "model_state_dict", "model_state", "params", "weights", *METHODS),
    *("callbacks", "current_model_state"),  # Lightning's
}
PLAIN = {"model", "state_dict", "model_state_dict"}  # keys that need no mention
AVERAGE_WORDS = {"ema", "swa", "averaged"}
WORD = re.compile("[a-z]+|[A-Z]+(?![a-z])|[A-Z][a-z]+")  # of model_ema, modelEMA, EMACallback
# The class token in the authors' and in transformers' names: what stands before it is a prefix.
TOKENS = ("vit.embeddings.cls_token", "embeddings.cls_token", "cls_token")
DEEPEST = 4  # dictionaries in dictionaries
# A head that reads the features, as the authors' linear probe and timm name it; a method's own
# (a projector of several layers) means nothing without the method.
READOUT = {"head.weight", "head.bias", "head.1.weight", "head.1.bias"}
READOUT.update(f"head.0.{part}" for part in ("running_mean", "running_var", "num_batches_tracked"))

Candidate = collections.namedtuple("Candidate", "keys prefix tensors")
Candidate.__doc__ = """Weights of a whole ViT: in the dictionary `tensors`, below `prefix` in its names.

keys: the keys that lead to the dictionary.
"""


def find_weights(saved, ema, path):
    """The one ViT in what a file holds.

    Args:
        saved: a dictionary of tensors, or one with such, at any of the names in `WRAPPERS`.
        ema: whether its averaged weights are asked for: timm's state_dict_ema, DINO's teacher, ...

    Returns:
        {name: array} without prefixes; the words that were stripped; lines that say so. Where there
        is no class token: the tensors as they stand.

    Raises:
        UserError: two that could be meant, or no averaged ones where those are asked for.
    """
    found = _candidates(saved)
    averaged = [candidate for candidate in found if _is_averaged(candidate, saved)]
    raw = [c for c in found if not any(c is other for other in averaged)]
    nameless = ", ".join(_nameless(saved))
    if ema and not averaged and nameless:
        what = f"its averaged (EMA) weights ({nameless}) are a list without names"
        way_out = "save them under their names, or leave --ema or finetune.ema out"
        raise UserError(what, path=path, way_out=way_out)
    if ema and not averaged:
        raise UserError("it holds no averaged (EMA) weights: leave --ema or finetune.ema out", path=path)
    if not found:
        inner = (saved[key] for key in ("model", "state_dict") if isinstance(saved.get(key), dict))
        return next(inner, saved), set(), []
    wanted = averaged if ema else raw or averaged
    # Of student and teacher neither is the one that everybody would take.
    rivals = found if not ema and any("student" in _words(c) for c in raw) else wanted
    if len(rivals) > 1:
        way_out = "save one alone"
        if averaged and not ema:
            way_out = f"--ema, in training finetune.ema=True, takes {_label(averaged[0])}, or {way_out}"
        names = ", ".join(map(_label, rivals))
        raise UserError(f"it holds the weights of {len(rivals)} models ({names}): {way_out}", path=path)
    state, words, lines = _stripped(wanted[0], found, averaged, ema, path)
    if nameless:
        there = f"averaged (EMA) weights are there, too ({nameless}), as a list without names"
        way_out = "save them under their names to have them"
        lines.append(f"{path}: {there}: they are not read; {way_out}")
    return state, words, lines


def _candidates(saved):
    found, seen = [], set()

    def look(tensors, keys):
        seen.add(id(tensors))
        for name, value in tensors.items():
            if not isinstance(name, str):
                continue
            if isinstance(value, dict) and id(value) not in seen and len(keys) < DEEPEST:
                if _is_wrapper(name):
                    look(value, (*keys, name))
            token = next((t for t in TOKENS if f".{name}".endswith(f".{t}")), None)
            if token and isinstance(value, np.ndarray):
                prefix = name[: -len(token)]
                if all(map(_is_wrapper, prefix.split(".")[:-1])):
                    found.append(Candidate(keys, prefix, tensors))

    look(saved, ())
    return found


def _nameless(saved, keys=()):
    """The keys that lead to lists of averaged tensors, as torch-ema and diffusers save them."""
    for key, value in saved.items():
        inside = (*keys, str(key))
        if isinstance(value, dict) and len(inside) < DEEPEST:
            yield from _nameless(value, inside)
        elif isinstance(value, (list, tuple)) and any(isinstance(x, np.ndarray) for x in value):
            if "shadow_params" in inside or any(map(_is_ema, inside)):
                yield ": ".join(inside)


def _words(candidate):
    return {*candidate.keys, *candidate.prefix.split(".")} - {""}


def _label(candidate):
    return ": ".join([*candidate.keys, candidate.prefix]).rstrip(": .") or "those at the top"


def _is_ema(word):
    return word in FOLLOWING or any(part.lower() in AVERAGE_WORDS for part in WORD.findall(word))


def _is_wrapper(word):
    return word in WRAPPERS or _is_ema(word)


def _is_averaged(candidate, saved):
    # Where Lightning averages, its state_dict has the average, current_model_state the raw weights.
    swapped = "current_model_state" in saved and candidate.keys[:1] == ("state_dict",)
    return swapped or any(map(_is_ema, _words(candidate)))


def _stripped(chosen, found, averaged, ema, path):
    """What `find_weights` returns of the `Candidate` that was chosen among those found."""
    prefix, tensors, words = chosen.prefix, chosen.tensors, _words(chosen)
    others = [c.prefix for c in found if c.tensors is tensors and len(c.prefix) > len(prefix)]

    def belongs(name):
        if not isinstance(name, str):
            return not prefix
        return name.startswith(prefix) and not name.startswith(tuple(others))

    inside = {name: name[len(prefix) :] if prefix else name for name in tensors if belongs(name)}
    head = {name for name in inside.values() if isinstance(name, str) and name.startswith("head.")}
    if words & METHODS and not head <= READOUT:
        inside = {old: name for old, name in inside.items() if name not in head}
    lines = []
    left = [n if isinstance(n, str) else type(n).__name__ for n in tensors if n not in inside]
    if prefix or set(chosen.keys) - PLAIN or left:
        some = ", ".join(left[:3]) + (f", ... ({len(left)})" if left[3:] else "")
        rest = f"; left out: {some}" if left else ""
        lines.append(f"{path}: the weights below {_label(chosen)} are taken, without that prefix{rest}")
    if averaged and not ema and not any(chosen is candidate for candidate in averaged):
        there = ", ".join(map(_label, averaged))
        what = f"averaged (EMA) weights are there, too ({there}): --ema, in training finetune.ema=True, takes them"
        lines.append(f"{path}: {what}")
    return {name: tensors[old] for old, name in inside.items()}, words, lines
