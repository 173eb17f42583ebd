"""What lies beside the checkpoints of an output folder: leftovers, and what was set aside."""
import logging
import os
import re
import shutil

from projects.MAE.checkpoint.manifest import check_whole
from projects.MAE.checkpoint.names import NUMBERED
from projects.MAE.errors import UserError
from projects.MAE.utils.disk import Unreadable, reason, rename

logger = logging.getLogger("libai." + __name__)

BEST = "model_best"
FINAL = "model_final"
PARTIAL, REPLACED, DELETED = "partial", "replaced", "deleted"
DAMAGED, FOREIGN = "damaged", "kept"
SET_ASIDE = re.compile(r"model_\d{7,}\.damaged\d*")
# Of the names that a run writes alone: others beside them are the user's.
LEFTOVER = re.compile(
    rf"\.(?P<name>{NUMBERED.pattern}|{BEST}|{FINAL})\.(?P<kind>{PARTIAL}|{REPLACED}|{DELETED})"
)


def beside(folder, name, kind):
    """Where a checkpoint `name` is written, put while it is replaced, or deleted."""
    return os.path.join(folder, f".{name}.{kind}")


def remove(path):
    """Remove a file, a folder or a link, but nothing that a link leads to: a user may have moved a
    checkpoint to a larger disk. Where nothing is nothing is done."""
    if os.path.isdir(path) and not os.path.islink(path):
        shutil.rmtree(path)
    elif os.path.lexists(path):
        os.remove(path)


def remove_if_possible(path):
    """`remove` what is in nobody's way: a network disk, say, keeps files that a process reads."""
    try:
        remove(path)
    except OSError as error:
        why = reason(error, path)
        logger.warning(f"{path} is left over, it goes at the next save or start: {why}")


def clear_leftovers(folder):
    """Finish what a kill broke off: remove what is half written, bring back what was replaced."""
    for entry in sorted(os.listdir(folder)):
        match = LEFTOVER.fullmatch(entry)
        if not match:
            continue
        path, name = os.path.join(folder, entry), match["name"]
        if match["kind"] == REPLACED and not _is_whole(os.path.join(folder, name)):
            if os.path.lexists(os.path.join(folder, name)):
                set_aside(folder, name, DAMAGED)
            rename(path, os.path.join(folder, name))
            logger.warning(f"Brought back {name}: a save that was to replace it was broken off")
        else:
            remove(path)


def _is_whole(checkpoint):
    try:
        check_whole(checkpoint)
    except Unreadable:
        raise
    except UserError:
        return False
    return True


def set_aside(folder, name, why):
    """Rename a checkpoint to NAME.damaged, where that is why, or .damaged2 and so on.

    Returns:
        The new name.
    """
    new, count = f"{name}.{why}", 1
    while os.path.lexists(os.path.join(folder, new)):
        count += 1
        new = f"{name}.{why}{count}"
    rename(os.path.join(folder, name), os.path.join(folder, new))
    return new
