"""One training run at a time in an output folder: a lock that the kernel gives back when a run dies.

The lock is on the file `run.lock`, not the file itself: one that a killed run has left holds nothing.
"""
import atexit
import contextlib
import errno
import fcntl
import logging
import os
import socket
import time

from projects.MAE.errors import UserError
from projects.MAE.utils.disk import refusals

logger = logging.getLogger("libai." + __name__)

NAME = "run.lock"
PAUSE_SECONDS = 0.1  # between two looks at a lock that somebody has
# What file systems without locks say: NFS without a lock daemon, Lustre without -o flock, and others.
WITHOUT_LOCKS = (errno.ENOLCK, errno.EOPNOTSUPP, errno.ENOSYS, errno.EINVAL)


def try_lock(handle, path, so):
    """Lock an open file: whether no other process has it. None where the file system has no locks,
    which the log says, with what follows: `so`.
    """
    try:
        fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        return False
    except OSError as error:
        if error.errno not in WITHOUT_LOCKS:
            raise
        logger.warning(f"{path} can't be locked on this file system ({error.strerror}): {so}")
        return None
    return True


def is_in_place(handle, path):
    """Whether an open file still has its name; a lock may turn out to be that of a removed one."""
    try:
        return os.path.samestat(os.fstat(handle), os.stat(path))
    except FileNotFoundError:
        return False


class FolderLock:
    """What a run holds its output folder with, until `release` or the end of its process.

    The descriptor is closed in programs that this process starts, as are all of Python's, and the
    workers that read images come from a fork server that is such a program: nobody else keeps it.

    Args:
        folder: `train.output_dir`, which exists.
        wait_seconds: how long to wait for another run that has it: one that was killed a moment ago
            may still be giving back its memory.

    Raises:
        UserError: another run has it.
    """

    def __init__(self, folder, wait_seconds=0):
        self.path, self.handle = os.path.join(folder, NAME), None
        deadline = time.monotonic() + wait_seconds
        with refusals(folder):
            while not self._try():
                if time.monotonic() >= deadline:
                    raise UserError(
                        f"it is in use by a run that is still going on{self._holder()}",
                        path=folder,
                        way_out="wait for its end or stop it, or name another folder",
                    )
                time.sleep(PAUSE_SECONDS)
        atexit.register(self.release)

    def release(self):
        """Give the folder back and leave no file; once is enough."""
        atexit.unregister(self.release)
        if self.handle is None:
            return
        if is_in_place(self.handle, self.path):
            os.remove(self.path)  # first: whoever gets the lock of a removed file tries again
        self._close()

    def _try(self):
        """Take the lock if it is free; whether the run may go on."""
        is_new = not os.path.exists(self.path)
        self.handle = os.open(self.path, os.O_RDWR | os.O_CREAT, 0o666)
        if is_new:  # whoever may use the folder may use the file, whatever this user's umask
            with contextlib.suppress(PermissionError):  # somebody else was faster
                os.fchmod(self.handle, 0o666)
        locked = try_lock(self.handle, self.path, "nothing keeps a second run out of this folder")
        if not locked:
            if locked is None and is_new:  # else it may be that of a run that could lock it
                with contextlib.suppress(FileNotFoundError):  # another run may be as far
                    os.remove(self.path)
            self._close()
            return locked is None
        # A run that ended may have removed it between the two calls above.
        if not is_in_place(self.handle, self.path):
            self._close()
            return self._try()
        os.ftruncate(self.handle, 0)
        os.write(self.handle, f"process {os.getpid()} on {socket.gethostname()}\n".encode())
        return True

    def _close(self):
        os.close(self.handle)
        self.handle = None

    def _holder(self):
        """" (process 12 on host)", as far as it has said so."""
        try:
            with open(self.path) as file:
                said = file.read(200).strip()
        except FileNotFoundError:
            return ""  # it has ended just now
        return f" ({said})" if said else ""
