"""How arrays get from one process to another without being piped through.

Pickled into a pipe, an image of 224 x 224 costs the training process more than a millisecond, which
is time the accelerator waits. Here only a file descriptor travels: the memory behind it has no
name, so it needs no /dev/shm and is gone with the last process that holds it, even a killed one.
"""
import itertools
import math
import mmap
import os
import weakref
from multiprocessing.reduction import DupFd

import numpy as np

_MAP_POPULATE = 0x8000  # map all pages at once, not one fault each; in `mmap` since Python 3.10
_ALIGNMENT = 64


class SharedArrays(dict):
    """{name: array} that is pickled, between processes, as anonymous shared memory.

    The arrays move to that memory when they are first pickled, or with `share`; an object that is
    sent to many processes is in memory once. An array that is replaced later travels in the pipe.
    """

    _memory = None  # file descriptor, size in bytes, where each array is
    _shared = {}  # the arrays that are in it

    @classmethod
    def stack(cls, count, samples):
        """Stack `count` samples, {name: array} each, in shared memory, one copy of each array.

        Raises:
            ValueError: samples with other names, shapes or types than the first.
        """
        samples = iter(samples)
        first = next(samples)
        batch = cls()
        batch._allocate({n: ((count, *np.shape(a)), a.dtype) for n, a in first.items()})
        for row, sample in enumerate(itertools.chain([first], samples)):
            # Assigned unseen, what differs would be zeros, repeated or rounded.
            kinds = [{n: (np.shape(a), a.dtype) for n, a in one.items()} for one in (first, sample)]
            if row and kinds[0] != kinds[1]:
                told = "; ".join(", ".join(_described(kind)) for kind in kinds)
                raise ValueError(f"samples of one batch differ: {told}")
            for name, array in sample.items():
                batch[name][row] = array
        return batch

    def share(self):
        """Copy the arrays to shared memory now. Returns this object."""
        arrays = dict(self)
        self._allocate({name: (array.shape, array.dtype) for name, array in arrays.items()})
        for name, array in arrays.items():
            self[name][...] = array
        return self

    def _allocate(self, shapes):
        """{name: (shape, dtype)} -> arrays of zeros in shared memory."""
        layout, size = [], 0
        for name, (shape, dtype) in shapes.items():
            layout.append((name, size, shape, dtype))
            size += -(-math.prod(shape) * dtype.itemsize // _ALIGNMENT) * _ALIGNMENT
        fd = os.memfd_create("arrays", os.MFD_CLOEXEC)
        weakref.finalize(self, os.close, fd)
        os.ftruncate(fd, size)
        self._memory, self._shared = (fd, size, layout), dict(_views(fd, size, layout))
        self.update(self._shared)

    def __reduce__(self):
        if self._memory is None:
            self.share()
        fd, size, layout = self._memory
        replaced = {n: array for n, array in self.items() if self._shared.get(n) is not array}
        kept = [place for place in layout if place[0] not in replaced]
        return _rebuild, (DupFd(fd), size, kept, replaced)


def _described(kinds):
    return [f"{name} {dtype} {list(shape)}" for name, (shape, dtype) in kinds.items()]


def _rebuild(handle, size, layout, others):
    fd = handle.detach()
    try:
        return SharedArrays([*_views(fd, size, layout), *others.items()])
    finally:
        os.close(fd)


def _views(fd, size, layout):
    # The arrays keep the mapping alive, and the mapping the memory.
    memory = mmap.mmap(fd, size, flags=mmap.MAP_SHARED | _MAP_POPULATE)
    return [
        (name, np.ndarray(shape, dtype, buffer=memory, offset=offset))
        for name, offset, shape, dtype in layout
    ]
