"""Where the lists of large image folders are kept from one run to the next."""
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
    # A list says which files are read, and as what class.
    private = status.st_uid == os.geteuid() and not status.st_mode & 0o022
    return folder if private else None
