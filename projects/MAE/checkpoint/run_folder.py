"""The checkpoints of an output folder, and what lies beside them: leftovers, damaged ones."""
import contextlib
import logging
import os
import re
import shutil
import stat

from projects.MAE.checkpoint.manifest import check_whole
from projects.MAE.checkpoint.names import NUMBERED, iteration_of, named_last, newest_checkpoints
from projects.MAE.checkpoint.reader import read_card
from projects.MAE.errors import UserError
from projects.MAE.utils.disk import Unreadable, reason, refusals, rename, sync_tree, write_text

logger = logging.getLogger("libai." + __name__)

TAG = "last_checkpoint"
BEST = "model_best"
FINAL = "model_final"
PARTIAL, REPLACED, DELETED = "partial", "replaced", "deleted"
DAMAGED, FOREIGN = "damaged", "kept"
SET_ASIDE = re.compile(r"model_\d{7,}\.damaged\d*")
# Of the names that a run writes alone: others beside them are the user's.
LEFTOVER = re.compile(
    rf"\.(?P<name>{NUMBERED.pattern}|{BEST}|{FINAL})\.(?P<kind>{PARTIAL}|{REPLACED}|{DELETED})"
)

# What runs, evaluations and reports write besides checkpoints, files and folders.
WRITTEN = re.compile(
    r"(run\.lock|(config|evaluation|knn)\.yaml|(environment|metrics|evaluation|knn)\.json|report\.html"
    r"|log\.txt(\.rank\d+)?|wandb_id\.txt|tensorboard|reconstructions|wandb)(\.partial)?"
    r"|last_checkpoint\.partial"
)


def check_entries(folder):
    """Raise a UserError where what a run writes is a link, a pipe or a device: it would write, or
    wait, somewhere else."""
    with refusals(folder):
        for name in sorted(os.listdir(folder)) if os.path.isdir(folder) else ():
            path = os.path.join(folder, name)
            if not WRITTEN.fullmatch(name):
                continue
            mode = os.lstat(path).st_mode
            if stat.S_ISREG(mode) or stat.S_ISDIR(mode):
                continue
            what = f"a link to {os.readlink(path)}" if stat.S_ISLNK(mode) else "no file"
            way_out = "remove it, or name another folder"
            raise UserError(f"{name} is {what}, and nothing is written through it", path=folder, way_out=way_out)


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
        target = os.path.join(folder, name)
        if match["kind"] == REPLACED and _damage(target):
            if os.path.lexists(target):
                set_aside(folder, name, DAMAGED)
            rename(path, target)
            logger.warning(f"Brought back {name}: a save that was to replace it was broken off")
        else:
            remove(path)


def _damage(checkpoint):
    """The UserError that says where a checkpoint is damaged, None where it is whole."""
    try:
        check_whole(checkpoint)
    except Unreadable:
        raise
    except UserError as error:
        return error


def _aside_if_damaged(folder, name):
    """`_damage`; a damaged checkpoint is set aside."""
    error = _damage(os.path.join(folder, name))
    if error:
        aside = set_aside(folder, name, DAMAGED)
        logger.warning(f"Damaged checkpoint set aside as {aside}: {error}")
    return error


def set_aside(folder, name, why):
    """Rename a checkpoint to NAME.damaged (where that is why), .damaged2, ...; give the new name."""
    new, count = f"{name}.{why}", 1
    while os.path.lexists(os.path.join(folder, new)):
        count += 1
        new = f"{name}.{why}{count}"
    rename(os.path.join(folder, name), os.path.join(folder, new))
    return new


def replace(folder, name):
    """Put the finished checkpoint beside `name` in its place; a kill between loses nothing."""
    target, old = os.path.join(folder, name), beside(folder, name, REPLACED)
    if os.path.lexists(target):
        remove(old)
        rename(target, old)
    rename(beside(folder, name, PARTIAL), target)
    remove_if_possible(old)


def delete(folder, name):
    """Delete a checkpoint; one that is half deleted is never taken for a damaged one."""
    doomed = beside(folder, name, DELETED)
    remove(doomed)
    rename(os.path.join(folder, name), doomed)
    remove_if_possible(doomed)
    link = os.path.join(folder, FINAL)
    if os.path.islink(link) and os.readlink(link) == name:
        os.remove(link)


def link_final(folder, name):
    """Make `model_final` a link to the checkpoint `name`; one that is no such link is set aside."""
    link = os.path.join(folder, FINAL)
    if os.path.lexists(link) and not _is_link_to_last(link):
        aside = set_aside(folder, FINAL, FOREIGN)  # LiBai's, perhaps of a later iteration
        logger.warning(f"{link} was there and is no link of a run's end: kept as {aside}")
    remove(f"{link}.partial")
    os.symlink(name, f"{link}.partial")
    rename(f"{link}.partial", link)


def _is_link_to_last(path):
    """Whether a `model_final` is the link that `link_final` makes."""
    return os.path.islink(path) and bool(NUMBERED.fullmatch(os.readlink(path)))


def checkpoint_to_resume(folder):
    """The name of the newest whole checkpoint, after clearing up; "" without any checkpoint.

    Damaged ones are set aside and named in the log; `last_checkpoint` names the result. Where only
    `model_best` is left, it is a second one of the name that tells its iteration.

    Raises:
        UserError: there are checkpoints, and none is whole or to go on from; or the folder can't be
            changed; or the system does not read a checkpoint, which is left where it is.
    """
    with refusals(folder), _unreadable_said():
        _check_reach(folder)
        clear_leftovers(folder)
        if os.path.isdir(os.path.join(folder, BEST)):
            _aside_if_damaged(folder, BEST)  # so that the next best one takes its place
        damaged = []
        for name in newest_checkpoints(folder):
            if not NUMBERED.fullmatch(name):
                continue  # a name that doesn't tell the iteration, as LiBai's model_final
            error = _aside_if_damaged(folder, name)
            if error:
                damaged.append(error)
                continue
            if name != named_last(folder):
                write_text(os.path.join(folder, TAG), name)
            return name
        best = _number_best(folder)
        if best:
            return best
        older = sorted(entry for entry in os.listdir(folder) if SET_ASIDE.fullmatch(entry))
        if older:
            why = damaged[0] if damaged else f"all were set aside: {', '.join(older)}"
            raise UserError(
                f"--resume: no checkpoint of train.output_dir={folder} is whole ({why}): start a new "
                "run in another train.output_dir"
            )
        others = _others(folder)
        if others:  # a new run would replace them
            raise UserError(
                f"--resume: train.output_dir={folder} holds {' and '.join(others)}, but no "
                "checkpoint whose name tells where to go on: name another train.output_dir "
                f"(finetune.path={os.path.join(folder, others[0])} begins with its weights), or "
                "move it away"
            )
        _forget_last(folder)
        return ""


def _number_best(folder):
    """Give `model_best` a second name, as the checkpoint that it also is, and return it; None where
    there is no `model_best`, or none that tells its iteration."""
    iteration = read_card(os.path.join(folder, BEST)).get("iteration") or 0
    if iteration < 1:
        return None
    name = f"model_{iteration - 1:07d}"
    partial = beside(folder, name, PARTIAL)
    remove(partial)
    shutil.copytree(os.path.join(folder, BEST), partial, copy_function=_link_or_copy)
    sync_tree(partial)
    replace(folder, name)
    write_text(os.path.join(folder, TAG), name)
    logger.warning(f"{BEST} is the only checkpoint left: going on from it, as {name}")
    return name


def _link_or_copy(source, target):
    """No file of a checkpoint is ever changed, so that two may share it."""
    try:
        os.link(source, target)
    except OSError:  # a file system without links
        shutil.copy2(source, target)


def _others(folder):
    """Names of the checkpoints that don't tell their iteration: no run goes on from them."""
    names = {FINAL, BEST, named_last(folder)} - {None}
    paths = [os.path.join(folder, name) for name in names if not NUMBERED.fullmatch(name)]
    found = [path for path in paths if os.path.isdir(path) and not _is_link_to_last(path)]
    return sorted(map(os.path.basename, found))


def _forget_last(folder):
    """Remove a `last_checkpoint` that names nothing: LiBai takes its number, or stops without."""
    tag = os.path.join(folder, TAG)
    if os.path.lexists(tag):
        logger.warning(f"{tag} names no checkpoint that is there: removed")
        remove(tag)


@contextlib.contextmanager
def _unreadable_said():
    """End the start where the system does not read a checkpoint: it is not damaged for that."""
    try:
        yield
    except Unreadable as error:
        error.way_out = (
            "the checkpoint may be whole and is left as it is; start again when the disk can be read"
        )
        raise


def _check_reach(folder):
    """Raise a UserError where a checkpoint was linked to a place that is out of reach now.

    Raises:
        OSError: the system does not tell what a checkpoint is; it would be taken for none.
    """
    for name in sorted(os.listdir(folder)):
        path = os.path.join(folder, name)
        if not NUMBERED.fullmatch(name) and name != BEST:
            continue
        try:
            os.stat(path)
        except OSError as error:
            if not os.path.islink(path):
                raise
            what = f"{name} is a link to {os.readlink(path)}, which can't be reached"
            way_out = "mount that disk, or remove the link"
            raise UserError(f"{what} ({error.strerror})", path=folder, way_out=way_out) from None


def clear_for_new_run(folder, other_run):
    """Make an output folder fit for a new run.

    Args:
        other_run: called with the path of a checkpoint of the folder; where it is of another run than
            the one about to start, gives what differs, its value now and its value there; else None.

    Raises:
        UserError: it holds checkpoints, which a new run would overwrite.
    """
    with refusals(folder), _unreadable_said():
        _check_reach(folder)
        _refuse_to_overwrite(folder, other_run)  # first: a folder that is refused stays as it is
        clear_leftovers(folder)
        _refuse_to_overwrite(folder, other_run)  # what a kill in the middle of a save has hidden


def _refuse_to_overwrite(folder, other_run):
    found = [*newest_checkpoints(folder), *_others(folder)]
    if not found:
        return
    newest = found[0]
    difference = other_run(os.path.join(folder, newest))
    done = f", {iteration_of(newest)} iterations" if NUMBERED.fullmatch(newest) else ""
    holds = f"it holds the checkpoints of a run ({newest}{done})"
    if difference:
        name, ours, theirs = difference
        what, way_out = f"{holds} with {name}={theirs}, not {ours}", "name another folder"
        raise UserError(what, path=folder, way_out=way_out)
    way_out = "go on with it by --resume, or name another folder for a new run"
    raise UserError(holds, path=folder, way_out=way_out)


def remove_checkpoints(folder):
    """Delete the checkpoints of an earlier --fast-dev-run."""
    with refusals(folder):
        clear_leftovers(folder)
        for name in os.listdir(folder):
            if NUMBERED.fullmatch(name) or name == BEST:
                delete(folder, name)
        remove(os.path.join(folder, TAG))
