"""The output folder of a run: held by one run, looked at before it starts or is resumed."""
import os

from projects.MAE.checkpoint import run_folder
from projects.MAE.checkpoint.card import check_same_run, difference_of_runs
from projects.MAE.checkpoint.reader import read_card
from projects.MAE.errors import UserError, about
from projects.MAE.runtime.ranks import only_on_rank_0
from projects.MAE.utils import disk
from projects.MAE.utils.folder_lock import FolderLock

LOCK_SECONDS = 10  # that a resumed run waits for a killed one to be gone


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
        with about("train.output_dir", folder):
            disk.check_writable(folder)
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
            other = {"graph": "eager", "optimizer": "graph"}.get(part, "another")
            hint = f": set graph.enabled={other == 'graph'}" if other != "another" else ""
            raise UserError(
                f"--resume: {checkpoint} holds no part {part}, it was written in {other} mode{hint}"
            )
