"""Rows of an array that outlive the process that writes them, so that another one goes on.

The file begins with a checksum over what they are rows of. Groups of rows follow, each with a
checksum over that and the group. A kill leaves half a group at the end, a power cut zeros where the
disk got no data: what is there counts up to the first group whose checksum is wrong.
"""
import contextlib
import hashlib
import math
import os
import time
import zlib

import numpy as np

from projects.MAE.errors import UserError
from projects.MAE.utils.disk import sync
from projects.MAE.utils.folder_lock import is_in_place, try_lock

SYNC_SECONDS = 5  # what a power cut costs at most, beside what a kill costs
HEAD_BYTES, SUM_BYTES = 32, 4


class OtherRows(Exception):
    """The file holds something else."""


class RowFile:
    """An array, float32 [count, *shape], that grows from its first row on.

    Args:
        path: the file, made where there is none. One process at a time has it, until `close`.
        of: a text that tells these rows from all others.
        count, shape: rows in the end, and the shape of each.
        group: rows of each `write` but the last; a kill costs at most as many.
        anew: leave nothing of what is there.

    Attributes:
        done: rows that are there: a multiple of group, or count.

    Raises:
        OtherRows: what is there is of another text, shape or group, or no such file.
        UserError: another process writes it.
        OSError: the disk refuses it; of `write`, too.
    """

    def __init__(self, path, of, count, shape, group, anew=False):
        self.path, self.count, self.shape, self.done = path, count, shape, 0
        self._group, self._row_bytes = group, 4 * math.prod(shape)
        self._file = os.fdopen(os.open(path, os.O_RDWR | os.O_CREAT, 0o666), "r+b")
        try:
            if not self._lock():
                raise UserError(f"{path}: another process writes it: wait, or name another file")
            self._head = hashlib.sha256(f"{of} {count} {shape} {group}".encode()).digest()
            self._begin(anew)
        except BaseException:
            self.close()
            raise

    def _lock(self):
        """Whether no other process has the file."""
        handle = self._file.fileno()
        if try_lock(handle, self.path, "nothing keeps a second process from writing it") is False:
            return False
        return is_in_place(handle, self.path)  # or another was done with it just now

    def _begin(self, anew):
        """Write the head where there is none, and go to the end of the rows that are there."""
        there = self._file.read(HEAD_BYTES)
        # Half a head, or zeros, are left by what came before the head was on the disk, and any row.
        if anew or there != self._head and self._head.startswith(there.rstrip(b"\0")):
            self._file.truncate(0)
            self._file.seek(0)
            self._file.write(self._head)
            sync(os.path.dirname(self.path) or ".")  # its name; what is in it follows
        elif there != self._head:
            raise OtherRows
        self._sync()
        self.done = sum(map(len, self.groups()))
        self._file.seek(self._place(self.done))

    def _place(self, row):
        """Where the group begins of which a row is the first."""
        return HEAD_BYTES + row * self._row_bytes + math.ceil(row / self._group) * SUM_BYTES

    def groups(self):
        """Yield what is there from the first row on, float32 [group, *shape] at a time."""
        self._file.seek(HEAD_BYTES)
        for first in range(0, self.count, self._group):
            rows = self._file.read(min(self._group, self.count - first) * self._row_bytes)
            if self._file.read(SUM_BYTES) != self._checksum(rows):
                return
            yield np.frombuffer(rows, "<f4").reshape(-1, *self.shape)

    def write(self, rows):
        """Add a group of rows, float32 [group, *shape], or the last ones."""
        data = np.ascontiguousarray(rows, "<f4").tobytes()
        self._file.write(data)
        self._file.write(self._checksum(data))
        self._file.flush()
        if time.monotonic() - self._synced >= SYNC_SECONDS:
            self._sync()
        self.done += len(rows)

    def _checksum(self, data):
        return zlib.crc32(data, zlib.crc32(self._head)).to_bytes(SUM_BYTES, "little")

    def _sync(self):
        self._file.flush()
        os.fsync(self._file.fileno())
        self._synced = time.monotonic()

    def remove(self):
        """Remove the file: what its rows were for is done."""
        os.remove(self.path)
        self.close()

    def close(self):
        """Let go of the file; what is written stays."""
        with contextlib.suppress(OSError):  # it writes once more what the disk has just refused
            self._file.close()
