"""The one exception that stands for a mistake of the user, not of the program; how it is said."""
import os
import sys
import traceback

LONGEST = 2000  # characters of a message
INTERRUPTED, CLOSED_PIPE = 130, 141  # what a shell reports for SIGINT and SIGPIPE


class UserError(Exception):
    """A mistake that the user can mend: one clear line naming key, value and the way out.

    The entry points print the message alone and exit with status 1; every other exception is
    a defect of the program and keeps its traceback.

    Args:
        local: only this rank can have found it (an unreadable image, say), so this rank says so.
            Every rank finds a mistake in the configuration, and rank 0 alone says so.
        told: all ranks have just agreed on this; they leave a moment later, see `leave_late`.
    """

    def __init__(self, message, local=False, told=False):
        super().__init__(message)
        self.local, self.told = local, told


def printable(text):
    """A text on one line that a terminal prints as it stands and any stream takes.

    A name in a stranger's file may hold what a terminal takes for commands, and a name on the disk
    bytes that are no text: such are written as Python would escape them, white space as a space.
    """
    return "".join(
        c if c.isprintable() else " " if c.isspace() else c.encode("unicode_escape").decode()
        for c in text
    )


def raised_by(what, error):
    """The `UserError` for an exception that a user's own code, named by `what`, raised on this rank."""
    try:
        text = str(error)
    except Exception as another:  # of a class of the user's own
        text = f"(its text can't be made: {type(another).__name__})"
    name = type(error).__name__
    said = f"{name}: {text}" if text else name
    return UserError(f"{what} raised {said}: mend it; MAE_TRACEBACK=1 shows where", local=True)


def report(error):
    """Print a `UserError` as one line; where it was found, too, if MAE_TRACEBACK=1 asks for it."""
    if os.environ.get("MAE_TRACEBACK", "0") not in ("", "0"):
        traceback.print_exception(type(error), error, error.__traceback__)
    # What is named may be of any length.
    line = printable(str(error)[:LONGEST])[:LONGEST]
    print(f"error: {line}", file=sys.stderr, flush=True)
