"""An .npz file that is written row by row, goes on after any stop, and is whole or absent.

NumPy's own writer needs an array in memory. Here the file is written from front to end: what
describes it first, then the rows, then the list of contents. What a stopped process leaves beside
the target is therefore the beginning of the very file that the next one would write: it is compared
byte by byte up to the rows, whose number follows from the length, and the rest is added.
"""
import errno
import fcntl
import io
import os
import shutil
import zipfile

import numpy as np

from projects.MAE.errors import UserError

CHUNK = 1 << 20
LONG_AGO = (1980, 1, 1, 0, 0, 0)  # a zip file's first day: no time of writing in the file


class FeatureFile:
    """Writes `features`, an array of rows, and small arrays beside it.

    Args:
        path: the .npz file; `path`.partial holds it until it is whole.
        arrays: {name: array or Texts}, written before the rows; what distinguishes this file from
            another belongs here.
        count, shape: rows, and the shape of each; float32.
        group: rows that are written at a time; a stop costs at most as many.
        force: start anew where `path`.partial is the beginning of another file.

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
        self._zip, self.done, self.missing = None, 0, 0
        self._out = _Sequential(self.partial)
        try:
            body = self._begin_or_restart(arrays, shape, force)
            rows = max(self._out.length - body, 0) // self._row_bytes
            self.done = count if rows >= count else rows // group * group
            self._check_room()
            self._replay()
        except OSError as error:
            self.close()
            self._fail(error)
        except BaseException:
            self.close()
            raise

    def _begin_or_restart(self, arrays, shape, force):
        try:
            return self._begin(arrays, shape)
        except _Differs:
            if not force:
                raise UserError(
                    f"{self.partial}: left by a stopped run with other settings, images or weights: "
                    "give the same to go on, or --force to start anew"
                ) from None
        self._leave_zip()
        self._out.restart()
        return self._begin(arrays, shape)

    def _begin(self, arrays, shape):
        """Write up to the rows; returns where they begin."""
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
        return self._out.position

    def _check_room(self):
        folder = os.path.dirname(os.path.abspath(self.path))
        needed = (self._count - self.done) * self._row_bytes
        free = shutil.disk_usage(folder).free
        if needed > free:
            raise UserError(
                f"--out {self.path}: the features need {_size(needed)} more, and the disk has "
                f"{_size(free)}: name another disk"
            )

    def _replay(self):
        """Read the rows that are there: the file ends with a checksum over all of them."""
        at_once = max(CHUNK // self._row_bytes, 1)
        with open(self.partial, "rb") as file:
            file.seek(self._out.position)
            for start in range(0, self.done, at_once):
                rows = file.read(min(at_once, self.done - start) * self._row_bytes)
                self._member.write(rows)
                self._count_missing(np.frombuffer(rows, "<f4").reshape(-1, self._row_bytes // 4))
        self._out.cut()

    def _count_missing(self, rows):
        self.missing += int(np.isnan(rows.reshape(len(rows), -1)).all(axis=1).sum())

    def write(self, rows):
        """Add rows, float32 [n, *shape]."""
        try:
            self._member.write(np.ascontiguousarray(rows, "<f4").tobytes())
        except OSError as error:
            self._fail(error)
        self.done += len(rows)
        self._count_missing(rows)

    def finish(self):
        """Write the end, and give the file its name."""
        try:
            self._member.close()
            self._zip.close()
            self._out.sync()
            os.replace(self.partial, self.path)
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
            f"{self.partial}; the same command goes on from there"
        ) from None


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
            fcntl.flock(self._fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
            if os.stat(path).st_ino != os.fstat(self._fd).st_ino:  # it was finished just now
                raise BlockingIOError
        except OSError:
            os.close(self._fd)
            raise UserError(f"{path}: another process writes it: wait, or name another --out") from None
        self.length, self.position = os.fstat(self._fd).st_size, 0

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
