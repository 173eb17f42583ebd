"""How a worker process hands a batch to the training process without piping it through.

Pickled into a pipe, an image of 224 x 224 costs the training process more than a millisecond, which
is time the accelerator waits. Here only a file descriptor travels: the memory behind it has no
name, so it needs no /dev/shm and is gone with the last process that holds it, even a killed one.
"""
import mmap
import os
from multiprocessing.reduction import DupFd

import numpy as np

_MAP_POPULATE = 0x8000  # map all pages at once, not one fault each; named in `mmap` since Python 3.10
_ALIGNMENT = 64


class SharedArrays(dict):
    """{name: array} that is pickled, between processes, as anonymous shared memory."""

    def __reduce__(self):
        offsets, size = [], 0
        for array in self.values():
            offsets.append(size)
            size += -(-array.nbytes // _ALIGNMENT) * _ALIGNMENT
        fd = os.memfd_create("batch", os.MFD_CLOEXEC)
        try:
            os.ftruncate(fd, size)
            memory = _map(fd, size)
            for offset, array in zip(offsets, self.values()):
                _view(memory, offset, array.shape, array.dtype)[...] = array
            layout = [
                (name, offset, array.shape, array.dtype)
                for offset, (name, array) in zip(offsets, self.items())
            ]
            return _rebuild, (DupFd(fd), size, layout)
        finally:
            os.close(fd)


def _rebuild(handle, size, layout):
    fd = handle.detach()
    try:
        memory = _map(fd, size)
    finally:
        os.close(fd)
    return SharedArrays((name, _view(memory, *place)) for name, *place in layout)


def _map(fd, size):
    return mmap.mmap(fd, size, flags=mmap.MAP_SHARED | _MAP_POPULATE)


def _view(memory, offset, shape, dtype):
    # The array keeps the mapping alive, and the mapping the memory.
    return np.ndarray(shape, dtype, buffer=memory, offset=offset)
