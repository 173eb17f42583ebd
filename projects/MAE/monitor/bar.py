"""Something takes long: a live bar on a terminal, a line now and then without one."""
import datetime
import logging
import sys
import threading
import time

from tqdm import tqdm

from projects.MAE.monitor.log import has_terminal

logger = logging.getLogger("libai." + __name__)
SIGN_OF_LIFE_SECONDS = 5  # between lines of a file while something takes long
REFRESH_SECONDS = 0.2  # of what is on a terminal
BAR_FORMAT = "{percentage:3.0f}%|{bar}| {n_fmt}/{total_fmt} {desc}"


class SignsOfLife:
    """Says every few seconds what is still going on, from a thread of its own: on a live bar, or in
    lines of the log where it is None.

    OneFlow lets other threads run every second or two while it compiles.
    """

    def __init__(self, what, bar):
        self.what, self.bar, self.since = what, bar, time.perf_counter()
        self.ended = threading.Event()
        self.thread = threading.Thread(target=self._run, daemon=True)
        if bar is None:
            logger.info(what)
        self.thread.start()

    def stop(self):
        self.ended.set()
        self.thread.join()

    def _run(self):
        pause = SIGN_OF_LIFE_SECONDS if self.bar is None else REFRESH_SECONDS
        while not self.ended.wait(pause):
            seconds = time.perf_counter() - self.since
            if self.bar is None:
                logger.info(f"{self.what}, {seconds:.0f} s so far")
            else:
                self.bar.set_description_str(f"{self.what}, {seconds:.0f} s")


def watched(batches, total, what):
    """Yield what is in `batches`, and show how far that is: a bar that goes away again on a
    terminal, a line every few seconds without one."""
    if has_terminal():
        bar = live_bar(total, leave=False)
        bar.set_description_str(what)
        try:
            for batch in batches:
                yield batch
                bar.update(1)
        finally:  # whoever takes the batches may stop early
            bar.close()
        return
    said = time.perf_counter()
    for done, batch in enumerate(batches, 1):
        yield batch
        if time.perf_counter() - said > SIGN_OF_LIFE_SECONDS:
            said = time.perf_counter()
            logger.info(f"{what}: batch {done}/{total}")


def live_bar(total, done=0, leave=True):
    """A bar on standard output, as wide as the terminal."""
    tqdm.monitor_interval = 0  # no thread is needed to look after bars that are updated by hand
    place = dict(file=sys.stdout, dynamic_ncols=True, bar_format=BAR_FORMAT, leave=leave)
    return tqdm(total=total, initial=done, mininterval=REFRESH_SECONDS, miniters=1, **place)


def duration(seconds):
    """Seconds as 0:01:02, or 3 days, 4:05:06."""
    return str(datetime.timedelta(seconds=int(seconds + 0.5)))
