"""Shows whoever watches this rank that it makes progress, and where it is when it makes none.

tools/train.sh gives each rank a file that has no name any more, the descriptor MAE_PROGRESS. A rank
counts in it; where all ranks of a machine stand still for `train.timeout_seconds`, the launcher sends
them SIGQUIT, reads the stacks that they append to their files, and ends the run. A signal handler in C
writes the stack, so it comes while OneFlow waits for a peer or holds Python's lock, too.

Under another launcher each rank ends by itself then, with its stack on stderr.

OneFlow is not imported here: importing it is what starts it.
"""
import faulthandler
import os
import signal
import time

TIMEOUT = 1800  # seconds; longer than any compile
STACK = 64  # where it begins in the file, behind the count, the limit and the state
EVERY = 1  # seconds, at most: a step may take a millisecond


class _Watchdog:
    """What this process has shown."""

    def __init__(self):
        self.file, self.seconds, self.count, self.shown = None, 0, 0, 0.0
        self.state = "starting"

    def start(self, seconds, state):
        if "MAE_PROGRESS" in os.environ and self.file is None:
            self.file = int(os.environ["MAE_PROGRESS"])
            os.lseek(self.file, STACK, os.SEEK_SET)
            faulthandler.register(signal.SIGQUIT, self.file, all_threads=False)
        self.seconds, self.state, self.shown = seconds, state, 0.0
        self.progress()

    def progress(self):
        now = time.monotonic()
        if now - self.shown < EVERY:
            return
        self.shown = now
        if self.file is not None:
            self.count += 1
            line = f"{self.count} {self.seconds} {self.state}".ljust(STACK - 1)
            os.pwrite(self.file, f"{line}\n".encode(), 0)
        elif self.seconds:
            faulthandler.dump_traceback_later(self.seconds, exit=True)
        else:
            faulthandler.cancel_dump_traceback_later()


_watchdog = _Watchdog()


def watch(seconds=TIMEOUT, state="starting"):
    """From now on progress is expected every so many seconds, int; 0 for never.

    Args:
        state: "started" once a signal that asks to stop ends this process without a word.
    """
    _watchdog.start(seconds, state)


def progress():
    """This rank has made progress; called wherever ranks exchange something."""
    if _watchdog.shown:
        _watchdog.progress()
