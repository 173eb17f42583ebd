"""Files that save time when they are there and cost nothing but time when they are not."""
import os
import tempfile


def cache_folder():
    """This user's folder for them, made if need be: $XDG_CACHE_HOME/mae-oneflow, or
    ~/.cache/mae-oneflow. None where it can't be made or others may write to it."""
    base = os.environ.get("XDG_CACHE_HOME") or os.path.join(os.path.expanduser("~"), ".cache")
    folder = os.path.join(base, "mae-oneflow")
    if not os.path.isabs(folder):  # no home
        return None
    try:
        os.makedirs(folder, mode=0o700, exist_ok=True)
        status = os.stat(folder)
    except OSError:
        return None
    # Compiled code is loaded from there.
    private = status.st_uid == os.geteuid() and not status.st_mode & 0o022
    return folder if private and os.access(folder, os.W_OK) else None


def write_whole(path, write):
    """Write a file that appears whole or not at all, also when several processes write it.

    Args:
        path: the file, replaced if it is there.
        write: `(path of a file to fill) -> None`.

    Raises:
        OSError: it can't be written; no trace is left.
    """
    handle, partial = tempfile.mkstemp(dir=os.path.dirname(path), suffix=".partial")
    os.close(handle)
    try:
        write(partial)
        os.replace(partial, path)
    except BaseException:
        os.unlink(partial)
        raise
