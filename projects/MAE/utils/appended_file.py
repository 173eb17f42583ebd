"""Files that a run adds to beside its checkpoints: its log and its figures.

They are worth less than the run: where the disk refuses them that is said once, and the run goes on.
Whether it can is for the next checkpoint to find out.
"""
import contextlib
import logging
import os

from projects.MAE.utils.disk import reason, refusals

logger = logging.getLogger("libai." + __name__)


class AppendedFile:
    """A file in which every record is whole or absent, and there for its readers at once.

    Args:
        path: of the file, in a folder that exists.
        warn: takes a line of text, the first time that the disk refuses a record.

    Raises:
        UserError: the file can't be opened.
    """

    def __init__(self, path, warn=logger.warning):
        self.path, self.warn, self.refused = path, warn, False
        with refusals(os.path.dirname(path)):
            self.file = open(path, "ab", buffering=0)

    def add(self, record):
        """Write bytes, or nothing of them; nothing after `close`."""
        if self.file.closed:
            return
        with self._warning():
            before, rest = os.fstat(self.file.fileno()).st_size, memoryview(record)
            try:
                while rest:
                    rest = rest[self.file.write(rest) :]
            except OSError:
                # A disk that is nearly full has taken a part, and nobody has added to it since.
                taken = len(record) - len(rest)
                if taken and os.fstat(self.file.fileno()).st_size == before + taken:
                    self.file.truncate(before)
                raise

    def close(self):
        with self._warning():  # a network disk may refuse only now
            self.file.close()

    @contextlib.contextmanager
    def _warning(self):
        try:
            yield
        except OSError as error:
            if self.refused:
                return
            self.refused = True  # first: what warns may write here, too
            why = reason(error, os.path.dirname(self.path))
            self.warn(f"{self.path} can't be written, so parts of it will be missing: {why}")
