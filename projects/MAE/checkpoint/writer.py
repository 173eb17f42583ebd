"""Writes checkpoint folders that `oneflow.load` reads: tensor by tensor, checksummed, flushed.

`oneflow.save` gives no checksum, flushes nothing and says nothing of a full disk but a traceback
on one rank, while the others wait for ever.
"""
import copyreg
import hashlib
import io
import os
import pickle
from concurrent.futures import ThreadPoolExecutor

import numpy as np
import oneflow as flow
from omegaconf import OmegaConf

from projects.MAE.checkpoint.names import PICKLE
from projects.MAE.checkpoint.reader import DTYPES
from projects.MAE.runtime.ranks import on_rank_0
from projects.MAE.utils.disk import sync

NAMES = {np.dtype(code): name for name, code in DTYPES.items()}
# The journal of a file system takes many waiting files at once: a thousand small files one after
# the other need seconds, so many threads tenths of one.
SYNC_THREADS = 16


class Part:
    """A state dict as the files of a part: pickled, with its tensors beside.

    Attributes:
        pickled: content of `pickled_data`.
        tensors: [(subfolder, global tensor)], in the same order on every rank.
    """

    def __init__(self, state):
        self.tensors = []
        buffer = io.BytesIO()
        pickler = _Pickler(buffer, protocol=4)
        pickler.part = self
        pickler.dump({"protocol_version": 1, "data": _plain(state)})
        self.pickled = buffer.getvalue()

    def place(self, tensor):
        """The subfolder of a tensor."""
        self.tensors.append((f"tensor_{len(self.tensors):05d}", tensor))
        return self.tensors[-1][0]

    def nbytes(self):
        """Bytes of all files, but for what a file system adds."""
        return len(self.pickled) + sum(t.numel() * t.element_size() for _, t in self.tensors)


class _Pickler(pickle.Pickler):
    def reducer_override(self, value):
        if isinstance(value, flow.Tensor):
            return copyreg.__newobj__, (type(value),), {"path": self.part.place(value)}
        return NotImplemented


def _plain(value):
    """Nested dicts, lists and tuples of their own kind alone: a reader needs no other classes."""
    if OmegaConf.is_config(value):
        value = OmegaConf.to_container(value, resolve=True)
    if isinstance(value, dict):
        return {key: _plain(item) for key, item in value.items()}
    if isinstance(value, (list, tuple)):
        return type(value)(_plain(item) for item in value)
    return value


class FolderWriter:
    """Rank 0's side of a save: the files of a new folder, which is made here.

    Attributes:
        files: {path inside the folder: {"bytes": size, "sha256": hexadecimal}}.
        error: the OSError of the first file that could not be written; then the rest is left out,
            for the other ranks go on handing over their tensors.
    """

    def __init__(self, folder):
        self.folder, self.files, self.error = folder, {}, None
        self.pool = ThreadPoolExecutor(SYNC_THREADS)
        self.syncing, self.folders = [], {folder}
        self._attempt(lambda: os.mkdir(folder))

    def tensor(self, path, array):
        """Write a tensor to a subfolder."""
        dims = "".join(f"  dim: {size}\n" for size in array.shape)
        meta = f"shape {{\n{dims}}}\ndata_type: {NAMES[array.dtype]}\n"
        self.file(os.path.join(path, "meta"), meta.encode())
        self.file(os.path.join(path, "out"), np.ascontiguousarray(array).reshape(-1).view(np.uint8))

    def file(self, path, data):
        """Write a file; its checksum is that of what was to be written, not of what was."""
        self._attempt(lambda: self._write(path, memoryview(data)))

    def finish(self):
        """Return when everything is on the disk, or `error` is set."""
        self._attempt(self._sync_all)
        self.pool.shutdown()

    def _attempt(self, function):
        if self.error is None:
            try:
                function()
            except OSError as error:
                self.error = error

    def _write(self, path, data):
        full = os.path.join(self.folder, path)
        folder = os.path.dirname(full)
        try:
            if folder not in self.folders:
                os.makedirs(folder, exist_ok=True)
                self.folders |= {folder, os.path.dirname(folder)}
            with open(full, "wb", buffering=0) as file:
                left = data
                while len(left):
                    left = left[file.write(left) :]
        except OSError as error:
            error.filename = full  # a failing write names no file
            raise
        # The disk writes while this goes on with the checksum and the next tensor.
        self.syncing.append(self.pool.submit(sync, full))
        self.files[path] = {"bytes": len(data), "sha256": hashlib.sha256(data).hexdigest()}

    def _sync_all(self):
        for done in self.syncing:
            done.result()
        # A new folder is on the disk when its parent is.
        list(self.pool.map(sync, sorted(self.folders)))


def write_part(writer, key, part):
    """Write a part; every rank calls this, with a FolderWriter on rank 0 and None elsewhere."""
    for path, tensor in part.tensors:
        array = on_rank_0(tensor)
        if writer:
            writer.tensor(os.path.join(key, path), array)
    if writer:
        writer.file(os.path.join(key, PICKLE), part.pickled)
