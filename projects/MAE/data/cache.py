"""Files that save time when they are there and cost nothing but time when they are not."""
import os


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
