"""The log of a run: calm lines on standard output and in log.txt."""
import logging
import os
import sys

from tqdm import tqdm

SHOWN_BY_BAR = {"shown_by_bar": True}  # `extra` of a record that repeats what a live bar shows


class TerminalHandler(logging.StreamHandler):
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


def has_terminal():
    """Whether a person sees standard output as it is written."""
    return sys.stdout.isatty()


def start_log(output_dir, rank):
    """Send what the project and LiBai log to `output_dir`/log.txt and, on rank 0, standard output.

    Ranks other than 0 have a file of their own, log.txt.rankN, as with LiBai. A run that is resumed
    adds to the files.

    Returns:
        LiBai's logger.
    """
    logger = logging.getLogger("libai")
    logger.setLevel(logging.INFO)
    logger.propagate = False
    for handler in list(logger.handlers):
        logger.removeHandler(handler)
        handler.close()
    os.makedirs(output_dir, exist_ok=True)  # rank 0 has made its own; another machine may share none
    name = "log.txt" if rank == 0 else f"log.txt.rank{rank}"
    handlers = [logging.FileHandler(os.path.join(output_dir, name))]
    if rank == 0:
        kind = TerminalHandler if has_terminal() else logging.StreamHandler
        handlers.append(kind(sys.stdout))
    for handler in handlers:
        handler.setFormatter(Formatter())
        logger.addHandler(handler)
    return logger
