"""The list of a folder's images, listed once and then read from a cache that notices changes.

Adding, removing or renaming an entry changes the times of the folder it is in. So the cache keeps
the times of every folder that was listed, and counts only while all of them are as they were.
"""
import hashlib
import json
import logging
import os
import stat
import time

import numpy as np

from projects.MAE.data.cache import cache_folder, write_whole
from projects.MAE.data.shared_arrays import SharedArrays

FORMAT = 1
WORTH_CACHING = 10_000  # images; fewer are listed in a moment
# A second change within one tick of a file system's clock doesn't show. The coarsest tick is 2 s.
SETTLED_NS = 2_000_000_000

logger = logging.getLogger("libai." + __name__)


class ImageIndex:
    """The image files below a folder's class folders; a place in the list is a sample's index.

    The files are sorted by class, then by path. Pickled between processes it takes no memory: they
    share it. (A list of a million str objects would be copied by every worker, as counting
    references to an object is writing to it.)

    Attributes:
        classes: names of the class folders, sorted.
        labels: int64 [n], places in `classes`.
        from_cache: whether the files were listed in an earlier run.
    """

    def __init__(self, classes, paths, from_cache):
        self.classes = classes
        self.from_cache = from_cache
        self._arrays = paths.share()

    def __len__(self):
        return len(self.labels)

    @property
    def labels(self):
        return self._arrays["labels"]

    def path(self, index):
        """The path of a sample, relative to the folder. Raises IndexError outside [-n, n)."""
        index = range(len(self))[index]
        ends = self._arrays["ends"]
        return os.fsdecode(self._arrays["paths"][ends[index] : ends[index + 1]].tobytes())


def load_index(folder, extensions):
    """The index of a folder, from the cache where it is up to date.

    Args:
        folder: holds the class folders, with images at any depth.
        extensions: of images, lower case with the dot. Hidden files and folders never count.

    Returns:
        An `ImageIndex`. A class without images is in `classes`, and no label points to it.

    Raises:
        OSError: a folder can't be listed.
    """
    cache = _cache_path(folder, extensions)
    cached = _read_cache(cache, folder, extensions) if cache else None
    if cached is not None:
        logger.info(f"{len(cached):,} images below {folder}: from the cache {cache}")
        return cached
    start = time.time_ns()
    listing = _Listing(folder, extensions)
    seconds = (time.time_ns() - start) / 1e9
    logger.info(f"{len(listing.lengths):,} images below {folder}: listed in {seconds:.1f} s")
    if cache and len(listing.lengths) >= WORTH_CACHING and listing.settled(start):
        _write_cache(cache, listing, folder, extensions)
    return ImageIndex(listing.classes, listing.arrays(), from_cache=False)


class _Listing:
    """What is below a folder.

    Attributes:
        classes: sorted names of the class folders.
        paths: bytes, of all images one after the other; lengths: bytes of each.
        counts: images of each class.
        states: {path relative to folder: `_state`} of everything a change of which could matter.
    """

    def __init__(self, folder, extensions):
        self._root = folder
        self._extensions = tuple(extensions)
        self.states = {}
        self.classes = sorted(path for path, is_folder in self._entries("") if is_folder)
        chunks, self.lengths, self.counts = [], [], []
        for name in self.classes:
            found = [os.fsencode(path) for path in sorted(self._images(name))]
            chunks.append(b"".join(found))
            self.lengths += map(len, found)
            self.counts.append(len(found))
        self.paths = b"".join(chunks)

    def _images(self, folder):
        """Paths of the images at any depth below folder, in no order."""
        for path, is_folder in self._entries(folder):
            if is_folder:
                yield from self._images(path)
            elif self._is_image(path):
                yield path

    def _entries(self, folder):
        """(path, is it a folder?) of what is in a folder and not hidden."""
        # Before listing, so that a change while listing shows.
        self.states[folder] = _state(os.path.join(self._root, folder))
        with os.scandir(os.path.join(self._root, folder)) as entries:
            for entry in entries:
                if entry.name.startswith("."):
                    continue
                path, is_folder = os.path.join(folder, entry.name), entry.is_dir()
                if not (is_folder or self._is_image(path)) and entry.is_symlink():
                    self.states[path] = _state(entry.path)  # it may come to point to a folder
                yield path, is_folder

    def _is_image(self, path):
        return path.lower().endswith(self._extensions)

    def settled(self, start):
        """Whether no folder had changed for a while at the time `start`, in ns."""
        return all(changed < start - SETTLED_NS for _, _, changed in self.states.values())

    def arrays(self):
        """What an `ImageIndex` holds."""
        return SharedArrays(
            paths=np.frombuffer(self.paths, np.uint8),
            ends=np.cumsum([0] + self.lengths, dtype=np.int64),
            labels=np.repeat(np.arange(len(self.counts), dtype=np.int64), self.counts),
        )


def _state(path):
    """(inode, time of modification, time of change), zeros for anything that is not a folder.

    Tools that copy folders set the time of modification back, but can't do so with the other.
    """
    try:
        status = os.stat(path)
    except OSError:
        return 0, 0, 0
    if not stat.S_ISDIR(status.st_mode):
        return 0, 0, 0
    return status.st_ino, status.st_mtime_ns, status.st_ctime_ns


def _identity(folder, extensions):
    return {"format": FORMAT, "folder": os.path.realpath(folder), "extensions": sorted(extensions)}


def _cache_path(folder, extensions):
    """The cache file of a folder, there or not; None where there can be none."""
    caches = cache_folder()
    name = hashlib.sha256(json.dumps(_identity(folder, extensions)).encode()).hexdigest()[:32]
    return caches and os.path.join(caches, f"index-{name}.npz")


def _write_cache(path, listing, folder, extensions):
    header = dict(
        _identity(folder, extensions), classes=listing.classes, states=list(listing.states)
    )
    arrays = dict(
        listing.arrays(),
        header=np.frombuffer(json.dumps(header).encode(), np.uint8),
        states=np.array(list(listing.states.values()), np.int64),
    )

    def write(partial):
        with open(partial, "wb") as file:
            np.savez(file, **arrays)

    try:
        write_whole(path, write)
    except OSError as error:
        logger.info(f"The list of images is not kept for the next run: {path}: {error.strerror}")


def _read_cache(path, folder, extensions):
    """An `ImageIndex`, or None if the cache is missing, out of date, damaged or something else."""
    try:
        with np.load(path, allow_pickle=False) as file:  # a zip file, with checksums
            header = json.loads(file["header"].tobytes())
            if any(header[key] != value for key, value in _identity(folder, extensions).items()):
                return None
            states = map(tuple, file["states"].tolist())
            for place, state in zip(header["states"], states):
                if _state(os.path.join(folder, place)) != state:
                    return None
            arrays = SharedArrays((name, file[name]) for name in ("paths", "ends", "labels"))
        return ImageIndex(header["classes"], arrays, from_cache=True)
    # Whatever may be wrong with a file: zipfile, zlib, json and NumPy have errors of their own.
    except Exception:
        return None
