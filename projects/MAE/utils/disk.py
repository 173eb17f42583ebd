"""What can go wrong with a disk, in words; and files that stay where a power cut can't undo them."""
import contextlib
import errno
import os
import secrets
import shutil
import tempfile

from projects.MAE.errors import MORE_FILES, TOO_MANY_FILES, UserError, shortage

ROOM = 1 << 16  # bytes that a run writes before it looks whether a checkpoint fits
FULL = (errno.ENOSPC, errno.EDQUOT, errno.EFBIG)
# What a file that is missing, or not what it should be, is answered with.
MISSING = (errno.ENOENT, errno.ENOTDIR, errno.EISDIR, errno.ENAMETOOLONG)


class Unreadable(UserError):
    """The system does not read a file at the moment, which says nothing of what is in it."""


def read_error(path, error):
    """The UserError for an OSError while reading: `Unreadable`, unless the file is missing."""
    kind = UserError if error.errno in MISSING else Unreadable
    return kind(f"can't be read: {error.strerror or error}", path=path)


def readable_size(count):
    """12345678 -> "12.3 MB"."""
    for unit in ("bytes", "kB", "MB", "GB", "TB"):
        if count < 1000 or unit == "TB":
            return f"{count} bytes" if unit == "bytes" else f"{count:.1f} {unit}"
        count /= 1000


def free_bytes(folder):
    """Bytes that this user may still write to the folder's disk. Quotas don't count."""
    return shutil.disk_usage(folder).free


def sync(path):
    """Return when a file, or the list of names of a folder, is on the disk."""
    handle = os.open(path, os.O_RDONLY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)


def sync_tree(folder):
    """`sync` a folder and all that is in it."""
    for path, _, files in os.walk(folder):
        for name in files:
            sync(os.path.join(path, name))
        sync(path)


def make_folder(path):
    """Make a folder where there is none, with those above it, where a power cut can't undo it."""
    above, parents = os.path.abspath(path), []
    while not os.path.lexists(above):
        above = os.path.dirname(above)
        parents.append(above)
    os.makedirs(path, exist_ok=True)
    for parent in parents:
        try:
            sync(parent)
        except PermissionError:  # it may be written to, but not be read, as flushing it needs
            os.sync()


@contextlib.contextmanager
def replaced(path, beside=None):
    """Replace a file whole (atomic write): the old one, or none, is there until the new one is on
    the disk, whatever ends the process or the machine. Yields the path where to make the new one.

    Args:
        beside: a name in the same folder that no other process uses at the time: the next one
            writes over what a killed one leaves there. By default a new name: any number of
            processes may replace one file, and the last one does.

    Raises:
        OSError: the disk refuses it. After any exception the old file is there, nothing beside it.
    """
    beside = beside or f"{path}.{secrets.token_hex(4)}.partial"
    try:
        yield beside
        sync(beside)
        rename(beside, path)
    except BaseException:
        with contextlib.suppress(OSError):  # it was not made yet, or the first error says more
            os.remove(beside)
        raise


def write_text(path, text):
    """Replace a small file that one process writes."""
    with replaced(path, f"{path}.partial") as beside:
        with open(beside, "w", encoding="utf-8", errors="backslashreplace") as file:
            file.write(text)


def rename(old, new):
    """Rename a file or folder within its folder, for good."""
    os.rename(old, new)
    sync(os.path.dirname(new) or ".")


@contextlib.contextmanager
def refusals(folder):
    """Turn what the disk refuses to do in a folder into a UserError."""
    try:
        yield
    except OSError as error:
        raise UserError(f"can't be used: {reason(error, folder)}", path=folder) from None


def reason(error, folder):
    """An OSError in one line: the file, what is wrong and, on a full disk, how much is free; where
    too many files are open what to do."""
    where = f"{error.filename}: " if error.filename else ""
    text = f"{where}{error.strerror or error}"
    if error.errno in FULL:
        with contextlib.suppress(OSError):  # the folder itself may be out of reach
            text += f" ({readable_size(free_bytes(folder))} free)"
    if error.errno in TOO_MANY_FILES:
        text += f", {MORE_FILES}"
    return text


def check_writable(folder):
    """Make a folder where there is none, and raise a UserError where no file can be written to it."""
    try:
        make_folder(folder)
        with tempfile.NamedTemporaryFile(dir=folder, prefix=".test_of_writing_") as file:
            file.write(b"x" * ROOM)
            file.flush()
            os.fsync(file.fileno())
    except OSError as error:
        hint = "free some space, or name" if error.errno in FULL else "name"
        raise shortage(error) or UserError(
            f"can't be written to: {error.strerror or error}",
            path=folder,
            way_out=f"{hint} a folder that you can write to",
        ) from None
