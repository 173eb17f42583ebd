"""The one exception that stands for a mistake of the user, not of the program; how it is said."""
import contextlib
import errno
import os
import sys
import traceback

LONGEST = 2000  # characters of a message
TOO_MANY_FILES, MORE_FILES = (errno.EMFILE, errno.ENFILE), "raise the limit (ulimit -n 4096)"
# What is raised, by whichever class, where a thread or a library finds no memory.
NO_MEMORY = ("can't start new thread", "failed to map segment", "Cannot allocate memory")
INTERRUPTED, CLOSED_PIPE = 130, 141  # what a shell reports for SIGINT and SIGPIPE


class UserError(Exception):
    """A mistake that the user can mend: one clear line naming key, value and the way out.

    The entry points print it and exit with status 1; every other exception is a defect of the
    program and keeps its traceback.

    Args:
        problem: what is wrong, in words.
        key: the setting that it is about, as the configuration calls it.
        value: what that was set to.
        way_out: what to do; {key} in it stands for the setting, as the user would type it.
        path: the file or folder that is wrong. Whoever reads it need not know what setting has named
            it: `about` fills that in.
        local: only this rank can have found it (an unreadable image, say), so this rank says so.
            Every rank finds a mistake in the configuration, and rank 0 alone says so.
        told: all ranks have just agreed on this; they leave a moment later, see `leave_late`.
    """

    def __init__(
        self, problem, key=None, value=None, way_out=None, path=None, local=False, told=False
    ):
        super().__init__(problem)
        self.problem, self.key, self.value, self.way_out = problem, key, value, way_out
        self.path, self.local, self.told = path, local, told

    def __str__(self):
        return self.text()

    def text(self, options=None):
        """The line. options: {key: option} of a command that has options for settings."""
        option = (options or {}).get(self.key)
        key = f"{option} " if option else f"{self.key}="
        said = [f"{key}{self.value}"] if self.key else []
        if self.path is not None and not (self.key and is_same(self.path, self.value)):
            said.append(str(self.path))
        said.append(self.problem)
        if self.way_out:
            said.append(self.way_out.replace("{key}", key))
        return ": ".join(said)


@contextlib.contextmanager
def about(key, value):
    """Within it, a `UserError` about the path that this setting names, or one below it, gets this key
    and value, if it has no key yet."""
    try:
        yield
    except UserError as error:
        if error.path is not None and error.key is None and is_in(error.path, value):
            error.key, error.value = key, value
        raise


def is_same(path, other):
    return os.path.abspath(str(path)) == os.path.abspath(str(other))


def is_in(path, folder):
    """Whether a path is a folder or file, or lies in it."""
    inside = os.path.join(os.path.abspath(str(folder)), "")
    return is_same(path, folder) or os.path.abspath(str(path)).startswith(inside)


def printable(text):
    """A text on one line that a terminal prints as it stands and any stream takes.

    A name in a stranger's file may hold what a terminal takes for commands, and a name on the disk
    bytes that are no text: such are written as Python would escape them, white space as a space.
    """
    return "".join(
        c if c.isprintable() else " " if c.isspace() else c.encode("unicode_escape").decode()
        for c in text
    )


def shortage(error):
    """The `UserError` of an exception that says that this machine has run out of something, or None.

    It may be raised anywhere: in a library, in a data set of the user's own.
    """
    frames = traceback.extract_tb(error.__traceback__)
    number = error.errno if isinstance(error, OSError) else None
    text = text_of(error)
    if number in TOO_MANY_FILES:
        return UserError(f"too many open files: {MORE_FILES}", local=True)
    # Python's semaphores are files in /dev/shm; the error names none.
    if number and frames and frames[-1].filename.endswith("multiprocessing/synchronize.py"):
        return UserError(
            f"worker processes need /dev/shm: {error.strerror}: make room in it (df -h /dev/shm; for a "
            "container --shm-size=1g), or set num_workers=0 for each loader",
            local=True,
        )
    if number == errno.ENOMEM or type(error) is MemoryError or any(said in text for said in NO_MEMORY):
        return UserError(
            f"no memory is left ({text or type(error).__name__}): set a smaller "
            "train.train_micro_batch_size or num_workers, or raise the limit (ulimit -v, a container's)",
            local=True,
        )
    return None


def text_of(error):
    """The text of an exception; a class of the user's own may fail to make one."""
    try:
        return str(error)
    except Exception as another:
        return f"(its text can't be made: {type(another).__name__})"


def raised_by(what, error):
    """The `UserError` for an exception that a user's own code, named by `what`, raised on this rank."""
    lacking = shortage(error)
    if lacking is not None:
        return lacking
    name, text = type(error).__name__, text_of(error)
    said = f"{name}: {text}" if text else name
    return UserError(f"{what} raised {said}: mend it; MAE_TRACEBACK=1 shows where", local=True)


def report(error, options=None):
    """Print a `UserError` as one line; where it was found, too, if MAE_TRACEBACK=1 asks for it."""
    if os.environ.get("MAE_TRACEBACK", "0") not in ("", "0"):
        traceback.print_exception(type(error), error, error.__traceback__)
    # What is named may be of any length.
    line = printable(error.text(options)[:LONGEST])[:LONGEST]
    print(f"error: {line}", file=sys.stderr, flush=True)
