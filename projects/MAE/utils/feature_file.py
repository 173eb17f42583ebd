"""An .npz file that is written row by row, goes on after any stop, and is whole or absent.

NumPy's own writer needs an array in memory. Here the file is written from front to end: what
describes it first, then the rows, then the list of contents. What a stopped process leaves beside
the target is therefore the beginning of the very file that the next one would write: it is compared
byte by byte up to the rows, whose number follows from the length, and the rest is added.

After a power cut a file may have its full length and zeros where the disk got no data. Rows are
therefore sent to the disk every few seconds, and those from the first hole on are written anew.
"""
import errno
import fcntl
import io
import logging
import os
import shutil
import time
import zipfile

import numpy as np

from projects.MAE.errors import UserError
from projects.MAE.utils.disk import sync
from projects.MAE.utils.folder_lock import WITHOUT_LOCKS

logger = logging.getLogger("libai." + __name__)

CHUNK = 1 << 20
SYNC_SECONDS = 5  # what a power cut costs at most, beside what a stop costs
# Zeros one after another that are taken for a hole. Where weights do give so many, a run that goes
# on computes more rows anew than it need.
HOLE = 4
LONG_AGO = (1980, 1, 1, 0, 0, 0)  # a zip file's first day: no time of writing in the file


class FeatureFile:
    """Writes `features`, an array of rows, and small arrays beside it.

    Args:
        path: the .npz file; `path`.partial holds it until it is whole.
        arrays: {name: array or Texts}, written before the rows; what distinguishes this file from
            another belongs here.
        count, shape: rows, and the shape of each; float32.
        group: rows that are written at a time; a stop costs at most as many.
        force: start anew, whatever `path`.partial holds.

    Attributes:
        done: rows that are there, at first 0, a multiple of group, or count.
        missing: how many of them are NaN.

    Raises:
        UserError: another process writes it, what is there is of other arrays, or the disk is too
            small or not writable.
    """

    def __init__(self, path, arrays, count, shape, group, force=False):
        self.path, self.partial = path, f"{path}.partial"
        self._count, self._row_bytes = count, int(np.prod(shape)) * 4
        self._zip, self.done, self.missing, self._force = None, 0, 0, force
        self._out = _Sequential(self.partial)
        try:
            if force:
                self._out.restart()
            self._begin(arrays, shape)
            self._replay(group)
            self._check_room()
            self._sync()
        except OSError as error:
            self.close()
            self._fail(error)
        except BaseException:
            self.close()
            raise

    def _begin(self, arrays, shape):
        """Write up to the rows, over what is there: only the same."""
        try:
            self._write_head(arrays, shape)
        except _Differs:
            raise UserError(
                f"{self.partial}: left by a stopped run with other settings, images or weights, or "
                "images that were changed since: give the same to go on, or --force to start anew"
            ) from None

    def _write_head(self, arrays, shape):
        self._zip = zipfile.ZipFile(self._out, "w")
        for name, array in arrays.items():
            with self._zip.open(_entry(name, zipfile.ZIP_DEFLATED), "w") as member:
                if isinstance(array, Texts):
                    array.write(member)
                else:
                    np.lib.format.write_array(member, np.asarray(array), allow_pickle=False)
        header = _npy_header("<f4", (self._count, *shape))
        entry = _entry("features", zipfile.ZIP_STORED)
        entry.file_size = len(header) + self._count * self._row_bytes  # may need zip64
        self._member = self._zip.open(entry, "w")
        self._member.write(header)

    def _check_room(self):
        folder = os.path.dirname(os.path.abspath(self.path))
        needed = (self._count - self.done) * self._row_bytes
        free = shutil.disk_usage(folder).free
        if needed > free:
            raise UserError(
                f"--out {self.path}: the features need {_size(needed)} more, and the disk has "
                f"{_size(free)}: name another disk"
            )

    def _replay(self, group):
        """Read the rows that are there: the file ends with a checksum over all of them."""
        there = max(self._out.length - self._out.position, 0) // self._row_bytes
        there = self._count if there >= self._count else there // group * group
        at_once = max(CHUNK // (self._row_bytes * group), 1) * group
        with open(self.partial, "rb") as file:
            file.seek(self._out.position)
            while self.done < there:
                rows = file.read(min(at_once, there - self.done) * self._row_bytes)
                rows = np.frombuffer(rows, "<f4").reshape(-1, self._row_bytes // 4)
                whole = _rows_before_hole(rows)
                kept = rows if whole == len(rows) else rows[: whole // group * group]
                self._member.write(kept.tobytes())
                self._count_missing(kept)
                self.done += len(kept)
                if len(kept) < len(rows):
                    break
        self._out.cut()

    def _count_missing(self, rows):
        flat = rows.reshape(len(rows), self._row_bytes // 4)
        self.missing += int(np.isnan(flat).all(axis=1).sum())

    def write(self, rows):
        """Add rows, float32 [n, *shape]."""
        try:
            self._member.write(np.ascontiguousarray(rows, "<f4").tobytes())
            if time.monotonic() - self._synced >= SYNC_SECONDS:
                self._sync()
        except OSError as error:
            self._fail(error)
        self.done += len(rows)
        self._count_missing(rows)

    def _sync(self):
        self._out.sync()
        self._synced = time.monotonic()

    def finish(self):
        """Write the end, and give the file its name."""
        try:
            self._member.close()
            self._zip.close()
            self._out.sync()
            os.replace(self.partial, self.path)
            sync(os.path.dirname(self.path) or ".")
        except OSError as error:
            self._fail(error)
        self.close()

    def close(self):
        """Let go of the file; what is written stays."""
        self._leave_zip()
        self._out.close()

    def _leave_zip(self):
        if self._zip is not None:
            self._zip.fp = None  # or it would write its end when Python forgets it
            self._zip = None

    def _fail(self, error):
        reason = "the disk is full" if error.errno in (errno.ENOSPC, errno.EDQUOT) else error.strerror
        raise UserError(
            f"--out {self.path}: {reason}: {self.done:,} of {self._count:,} images are kept in "
            f"{self.partial}; {self.way_on()} goes on from there"
        ) from None

    def way_on(self):
        """What goes on after a stop, as the beginning of a sentence."""
        if not self._force:
            return "the same command"
        command = "the same command without --force"  # which would start anew
        # It would be refused where the target exists.
        there = os.path.lexists(self.path)
        return f"when {self.path} is moved away, {command}" if there else command


class Texts:
    """An array of `count` strings that is never in memory as a whole.

    Args:
        text_of: gives the string of an index.
    """

    def __init__(self, text_of, count):
        self._text_of, self._count = text_of, count

    def write(self, file):
        """Write it as np.save does, to a file object."""
        length = max(map(len, map(self._text_of, range(self._count))), default=1)
        file.write(_npy_header(f"<U{length}", (self._count,)))
        for start in range(0, self._count, 1000):
            indices = range(start, min(start + 1000, self._count))
            file.write(np.array([self._text_of(i) for i in indices], f"<U{length}").tobytes())


def _rows_before_hole(rows):
    """How many rows, float32 [n, D], come before one that holds `HOLE` zeros one after another."""
    zero = rows.ravel() == 0
    holes = zero[: max(zero.size - HOLE + 1, 0)].copy()
    for shift in range(1, HOLE):
        holes &= zero[shift : shift + holes.size]
    return int(holes.argmax()) // rows.shape[1] if holes.any() else len(rows)


def _npy_header(dtype, shape):
    header = io.BytesIO()
    np.lib.format.write_array_header_1_0(
        header, dict(descr=dtype, fortran_order=False, shape=shape)
    )
    return header.getvalue()


class _Differs(Exception):
    """What is written is not what is there."""


class _Sequential:
    """A file that can't be rewound. Over what is there, writing is comparing."""

    def __init__(self, path):
        try:
            self._fd = os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o666)
        except OSError as error:
            raise UserError(f"--out {path}: can't be written: {error.strerror}") from None
        try:
            self._lock(path)
        except BlockingIOError:
            os.close(self._fd)
            raise UserError(f"{path}: another process writes it: wait, or name another --out") from None
        except OSError as error:
            os.close(self._fd)
            raise UserError(f"--out {path}: can't be locked: {error.strerror}") from None
        self.length, self.position = os.fstat(self._fd).st_size, 0

    def _lock(self, path):
        """Hold the file, until its end; BlockingIOError if another process does."""
        try:
            fcntl.flock(self._fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError as error:
            if error.errno not in WITHOUT_LOCKS:
                raise
            logger.warning(
                f"{path} can't be locked on this file system ({error.strerror}): nothing keeps "
                "a second process from writing it"
            )
        try:
            is_in_place = os.path.samestat(os.stat(path), os.fstat(self._fd))
        except FileNotFoundError:
            is_in_place = False
        if not is_in_place:
            raise BlockingIOError  # it was finished just now

    def write(self, data):
        view = memoryview(data).cast("B")
        known = view[: max(self.length - self.position, 0)]
        if known and os.pread(self._fd, len(known), self.position) != known:
            raise _Differs
        self.position += len(known)
        view = view[len(known) :]
        while view:
            written = os.pwrite(self._fd, view, self.position)
            self.position += written
            view = view[written:]
        return len(data)

    def flush(self):
        """Nothing is held back."""

    def cut(self):
        """Drop what is there beyond the position."""
        os.ftruncate(self._fd, self.position)
        self.length = self.position

    def restart(self):
        self.position = 0
        self.cut()

    def sync(self):
        """Wait until the disk has the data."""
        os.fsync(self._fd)

    def close(self):
        if self._fd is not None:
            os.close(self._fd)
            self._fd = None


def _entry(name, compression):
    entry = zipfile.ZipInfo(f"{name}.npy", LONG_AGO)
    entry.compress_type = compression
    return entry


def _size(number):
    for unit in ("bytes", "kB", "MB", "GB"):
        if number < 1000:
            return f"{number:.3g} {unit}"
        number /= 1000
    return f"{number:.3g} TB"
