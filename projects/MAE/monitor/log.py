"""The log of a run: calm lines on standard output and in log.txt."""
import contextlib
import errno
import logging
import os
import sys

from tqdm import tqdm

from projects.MAE.utils.appended_file import AppendedFile
from projects.MAE.utils.disk import refusals

GONE = (errno.EPIPE, errno.EIO)  # whoever read a pipe, or the terminal
SHOWN_BY_BAR = {"shown_by_bar": True}  # `extra` of a record that repeats what a live bar shows


class FileHandler(logging.Handler):
    """Adds lines to an `AppendedFile`."""

    def __init__(self, path, warn):
        super().__init__()
        self.file = AppendedFile(path, warn)

    def emit(self, record):
        try:
            line = self.format(record)
        except Exception:
            self.handleError(record)  # a defect, which logging shows with its traceback
            return
        # A name of a file need not be text.
        self.file.add(f"{line}\n".encode(errors="backslashreplace"))

    def close(self):
        self.file.close()
        super().close()


class OutputHandler(logging.StreamHandler):
    """Writes to standard output, and says once, on standard error, where that is refused."""

    refused = False

    def filter(self, record):
        """Leave out what LiBai's training loop says of an exception: the process that ends of it does."""
        of_training = record.exc_info and record.name == "libai.engine.trainer"
        return not of_training and super().filter(record)

    def handleError(self, record):
        error = sys.exc_info()[1]
        if not isinstance(error, OSError):
            super().handleError(record)  # a defect
            return
        if error.errno in GONE:
            close_to_readers(sys.stdout)
        if not self.refused:
            self.refused = True
            to_standard_error(f"standard output can't be written: {error.strerror or error}")


class TerminalHandler(OutputHandler):
    """Writes above a live bar, and leaves out what the bar shows."""

    def filter(self, record):
        return not getattr(record, "shown_by_bar", False) and super().filter(record)

    def emit(self, record):
        with tqdm.external_write_mode(file=self.stream):
            super().emit(record)


class Formatter(logging.Formatter):
    """Month, day, time and what is said; a level only where it is worse than information."""

    def __init__(self):
        super().__init__("[%(asctime)s] %(message)s", datefmt="%m/%d %H:%M:%S")

    def formatMessage(self, record):
        line = super().formatMessage(record)
        if record.levelno <= logging.INFO:
            return line
        return line.replace("] ", f"] {record.levelname}: ", 1)


def to_standard_error(line):
    """Print a line there; where that is refused, too, nobody is left to hear it."""
    try:
        print(line, file=sys.stderr, flush=True)
    except OSError as error:
        if error.errno in GONE:
            close_to_readers(sys.stderr)


def close_to_readers(stream):
    """Let a stream whose reader has gone, `| head` or a terminal, take what nobody reads: Python flushes both
    whenever a process is started, and would end the run with what is left in them."""
    with contextlib.suppress(OSError, ValueError):
        os.dup2(os.open(os.devnull, os.O_WRONLY), stream.fileno())


def has_terminal():
    """Whether a person sees standard output as it is written."""
    return sys.stdout.isatty()


def start_log(output_dir, rank):
    """Send what the project and LiBai log to `output_dir`/log.txt and, on rank 0, standard output.

    Ranks other than 0 have a file of their own, log.txt.rankN, as with LiBai. A run that is resumed
    adds to the files.

    Returns:
        LiBai's logger.

    Raises:
        UserError: there can be no such file.
    """
    logger = logging.getLogger("libai")
    logger.setLevel(logging.INFO)
    logger.propagate = False
    for handler in list(logger.handlers):
        logger.removeHandler(handler)
        handler.close()
    with refusals(output_dir):
        os.makedirs(output_dir, exist_ok=True)  # rank 0 has made its own; another machine may share none
    name = "log.txt" if rank == 0 else f"log.txt.rank{rank}"
    warn = logger.warning if rank == 0 else to_standard_error
    handlers = [FileHandler(os.path.join(output_dir, name), warn)]
    if rank == 0:
        kind = TerminalHandler if has_terminal() else OutputHandler
        handlers.append(kind(sys.stdout))
    for handler in handlers:
        handler.setFormatter(Formatter())
        logger.addHandler(handler)
    return logger
