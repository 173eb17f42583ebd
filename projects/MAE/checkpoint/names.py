"""The names of what lies in an output folder: which checkpoint a path means, which is the newest."""
import os
import re

from projects.MAE.errors import UserError
from projects.MAE.utils.untrusted_file import open_regular

# The card lies inside the part "model": LiBai reads every entry of a checkpoint folder as a part.
CARD = os.path.join("model", "model_card.json")
NUMBERED = re.compile(r"model_\d{7,}")  # the iteration it was saved after, counted from 0
PICKLE = "pickled_data"


def find_checkpoint(path):
    """The checkpoint folder that a path means: a checkpoint (a folder that holds `model`), its
    `model`, or the output folder of a run, which stands for its newest checkpoint.

    Raises:
        UserError: there is none.
    """
    path = str(path).rstrip("/")
    if not os.path.exists(path):
        raise UserError("no such file or folder", path=path)
    if os.path.isfile(os.path.join(path, PICKLE)):
        path = os.path.dirname(path)
    if not _holds_model(path):
        found = _usable(path)
        if not found:
            raise UserError("not a checkpoint folder (it holds no 'model')", path=path)
        path = os.path.join(path, found[0])
    return path


def _usable(folder):
    """Names of the checkpoints of an output folder that hold a model; model_final and model_best
    last, as both have another name in most."""
    names = [*newest_checkpoints(folder), "model_final", "model_best"]
    return [name for name in names if _holds_model(os.path.join(folder, name))]


def newest_checkpoints(folder):
    """Names of the checkpoints of an output folder, the one to go on from first.

    That is the one that `last_checkpoint` names; then come those before it, the newest first, then
    those after it. Where it names none that is there, the newest comes first. Some may be damaged.
    """
    names = os.listdir(folder) if os.path.isdir(folder) else []
    numbered = [name for name in names if NUMBERED.fullmatch(name)]
    numbered = [name for name in numbered if os.path.isdir(os.path.join(folder, name))]
    numbered.sort(key=iteration_of, reverse=True)
    named = named_last(folder)
    if named is None or not os.path.isdir(os.path.join(folder, named)):
        return numbered
    others = [name for name in numbered if name != named]
    if NUMBERED.fullmatch(named):
        others.sort(key=lambda name: iteration_of(name) > iteration_of(named))
    return [named, *others]


def named_last(folder):
    """The name in the file `last_checkpoint` of an output folder, None without a usable one."""
    try:
        with open_regular(os.path.join(folder, "last_checkpoint")) as file:
            name = file.read(1000).decode("utf-8", "replace").strip()
    except (FileNotFoundError, NotADirectoryError, IsADirectoryError):
        return None
    return name if name == os.path.basename(name) and name not in ("", ".", "..") else None


def iteration_of(name):
    """Iterations done at a checkpoint `model_0000009`: 10."""
    return int(name.split("_")[-1]) + 1


def _holds_model(path):
    return os.path.isfile(os.path.join(path, "model", PICKLE))


def is_checkpoint(path):
    """Whether `find_checkpoint` has one to look for: a folder that LiBai wrote."""
    marks = ("last_checkpoint", PICKLE, os.path.join("model", PICKLE))
    return any(os.path.isfile(os.path.join(path, mark)) for mark in marks)


def has_checkpoint(path):
    """`is_checkpoint`, or a folder with checkpoints in it where the file last_checkpoint is gone."""
    return is_checkpoint(path) or bool(_usable(path))
