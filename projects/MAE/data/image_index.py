"""The list of a folder's images, listed once and then read from a cache that notices changes.

Adding, removing or renaming an entry changes the times of the folder it is in. So the cache keeps
the times of every folder that was listed, and counts only while all of them are as they were.
"""
import contextlib
import errno
import functools
import hashlib
import itertools
import json
import logging
import os
import stat
import time
import zlib
from collections import Counter

import numpy as np

from projects.MAE.data.shared_arrays import SharedArrays
from projects.MAE.runtime.watchdog import progress
from projects.MAE.utils.disk import replaced

FORMAT = 3
WORTH_CACHING = 10_000  # images; fewer are listed in a moment
# Folders that photo servers, cameras and desktops make beside images, of copies of them.
NO_IMAGES = ("@eadir", "@__thumb", "@recycle", "#recycle", "$recycle.bin", "__macosx", "lost+found")
# A second change within one tick of a file system's clock doesn't show. The coarsest tick is 2 s.
SETTLED_NS = 2_000_000_000

logger = logging.getLogger("libai." + __name__)


class ImageIndex:
    """The image files below a folder's class folders; a place in the list is a sample's index.

    The files are sorted by class, then by path; loose files, in no class folder, come last.
    Pickled between processes it takes no memory: they share it. (A list of a million str objects
    would be copied by every worker, as counting references to an object is writing to it.)

    Attributes:
        classes: names of the class folders, sorted.
        labels: int64 [n], places in `classes`, -1 for loose files.
        from_cache: whether the files were listed in an earlier run.
        taken: {extension: images}; left_out: {what, in words: how many}, see `_Listing`.
        checksum: CRC-32 of all paths and labels in their order, 8 hexadecimal digits.
    """

    def __init__(self, classes, paths, from_cache, taken=(), left_out=()):
        self.classes = classes
        self.from_cache = from_cache
        self.taken, self.left_out = dict(taken), dict(left_out)
        self._arrays = paths.share()

    def __len__(self):
        return len(self.labels)

    @property
    def labels(self):
        return self._arrays["labels"]

    @property
    def checksum(self):
        arrays = [self._arrays[name] for name in ("paths", "ends", "labels")]
        return f"{functools.reduce(lambda crc, array: zlib.crc32(array, crc), arrays, 0):08x}"

    def path(self, index):
        """The path of a sample, relative to the folder. Raises IndexError outside [-n, n)."""
        index = range(len(self))[index]
        ends = self._arrays["ends"]
        return os.fsdecode(self._arrays["paths"][ends[index] : ends[index + 1]].tobytes())


def load_index(folder, extensions, loose=False):
    """The `ImageIndex` of a folder, from the cache where it is up to date.

    A class without images is in `classes`, and no label points to it.

    Args:
        folder: holds the class folders, with images at any depth.
        extensions: of images, lower case with the dot. Hidden files and folders never count.
        loose: take the images that lie in the folder itself, too.

    Raises:
        OSError: a folder can't be listed.
    """
    identity = _identity(folder, extensions, loose)
    cache = _cache_path(identity)
    cached = _read_cache(cache, folder, identity) if cache else None
    if cached is not None:
        logger.info(f"{len(cached):,} images below {folder}: from the cache {cache}")
        return cached
    start = time.time_ns()
    listing = _Listing(folder, extensions, loose)
    seconds = (time.time_ns() - start) / 1e9
    logger.info(f"{len(listing.lengths):,} images below {folder}: listed in {seconds:.1f} s")
    if cache and len(listing.lengths) >= WORTH_CACHING and listing.settled(start):
        _write_cache(cache, listing, identity)
    told = listing.taken, listing.left_out
    return ImageIndex(listing.classes, listing.arrays(), False, *told)


class _Listing:
    """What is below a folder.

    Attributes:
        classes: sorted names of the class folders.
        paths: bytes, of all images one after the other; lengths: bytes of each.
        counts: images of each class, and of the loose ones.
        states: {path relative to folder: `_state`} of everything a change of which could matter.
        taken: Counter of the images' extensions; left_out: of what else there is: other extensions,
            "hidden files", folders that are not looked into.
    """

    def __init__(self, folder, extensions, loose):
        self._root, self._extensions, self.states = folder, tuple(extensions), {}
        self.taken, self.left_out = Counter(), Counter()
        self.classes, beside = self._list("")
        groups = (self._images(name) for name in self.classes)
        chunks, self.lengths, self.counts = [], [], []
        for group in itertools.chain(groups, [beside if loose else []]):
            names = sorted(group)
            self.taken.update(os.path.splitext(name)[1].lower() for name in names)
            found = [os.fsencode(name) for name in names]
            chunks.append(b"".join(found))
            self.lengths += map(len, found)
            self.counts.append(len(found))
        self.paths = b"".join(chunks)
        if beside and not loose:
            self.left_out["images beside the class folders"] = len(beside)

    def _images(self, folder):
        """Paths of the images at any depth below folder, in no order."""
        waiting = [(folder, (self._on_disk(""),))]
        while waiting:
            place, above = waiting.pop()
            identity = self._on_disk(place)
            if identity in above:  # a link to a folder that it lies in
                continue
            folders, images = self._list(place)
            yield from images
            waiting += ((inner, above + (identity,)) for inner in folders)

    def _on_disk(self, folder):
        """What two paths of one folder have in common."""
        status = os.stat(os.path.join(self._root, folder))
        return status.st_dev, status.st_ino

    def _list(self, folder):
        """(folders, images) in a folder that are not hidden, as lists of paths; folders sorted."""
        progress()
        # Before listing, so that a change while listing shows.
        self.states[folder] = _state(os.path.join(self._root, folder))
        folders, images = [], []
        with os.scandir(os.path.join(self._root, folder)) as entries:
            for entry in entries:
                if entry.name.startswith("."):
                    is_folder = entry.is_dir(follow_symlinks=False)
                    self.left_out["hidden folders" if is_folder else "hidden files"] += 1
                    continue
                path, is_folder = os.path.join(folder, entry.name), _is_folder(entry)
                if is_folder and entry.name.lower() in NO_IMAGES:
                    self.left_out[f"{entry.name}/"] += 1
                elif is_folder:
                    folders.append(path)
                elif path.lower().endswith(self._extensions):
                    images.append(path)
                else:
                    self.left_out[os.path.splitext(path)[1].lower() or "without extension"] += 1
                    if entry.is_symlink():
                        self.states[path] = _state(entry.path)  # it may come to point to a folder
        return sorted(folders), images

    def settled(self, start):
        """Whether no folder had changed for a while at the time `start`, in ns."""
        return all(changed < start - SETTLED_NS for _, _, changed in self.states.values())

    def arrays(self):
        """What an `ImageIndex` holds."""
        labels = np.repeat(np.array([*range(len(self.classes)), -1], np.int64), self.counts)
        return index_arrays(self.paths, self.lengths, labels)


def index_arrays(paths, lengths, labels):
    """What an `ImageIndex` holds, of bytes of all paths on end, length of each, and labels int64."""
    ends = np.cumsum([0, *lengths], dtype=np.int64)
    return SharedArrays(paths=np.frombuffer(paths, np.uint8), ends=ends, labels=labels)


def _is_folder(entry):
    try:
        return entry.is_dir()
    except OSError as error:
        if error.errno == errno.ELOOP:  # a link to itself
            return False
        raise


def _state(path):
    """(inode, time of modification, time of change), zeros for anything that is not a folder.

    Tools that copy folders set the time of modification back, but can't do so with the other.
    """
    with contextlib.suppress(OSError):
        status = os.stat(path)
        if stat.S_ISDIR(status.st_mode):
            return status.st_ino, status.st_mtime_ns, status.st_ctime_ns
    return 0, 0, 0


def _identity(folder, extensions, loose):
    """What a list depends on besides the folder's content."""
    place = os.path.realpath(folder)
    return dict(format=FORMAT, folder=place, extensions=sorted(extensions), loose=loose)


def _cache_path(identity):
    """The cache file of a list, there or not; None where there can be none."""
    caches = _cache_folder()
    name = hashlib.sha256(json.dumps(identity).encode()).hexdigest()[:32]
    return caches and os.path.join(caches, f"index-{name}.npz")


def _cache_folder():
    """This user's folder for lists, made if need be: $XDG_CACHE_HOME/mae-oneflow, or
    ~/.cache/mae-oneflow. None where it can't be made or others may write to it."""
    base = os.environ.get("XDG_CACHE_HOME") or os.path.join(os.path.expanduser("~"), ".cache")
    folder = os.path.join(base, "mae-oneflow")
    if not os.path.isabs(folder):  # no home
        return None
    try:
        os.makedirs(folder, mode=0o700, exist_ok=True)
        status = os.stat(folder)
    except OSError:
        return None
    # A list says which files are read, and as what class.
    private = status.st_uid == os.geteuid() and not status.st_mode & 0o022
    return folder if private else None


def _write_cache(path, listing, identity):
    header = dict(identity, classes=listing.classes, states=list(listing.states))
    header.update(taken=listing.taken, left_out=listing.left_out)
    arrays = dict(
        listing.arrays(),
        header=np.frombuffer(json.dumps(header).encode(), np.uint8),
        states=np.array(list(listing.states.values()), np.int64),
    )
    try:
        with replaced(path) as beside, open(beside, "wb") as file:
            np.savez(file, **arrays)
    except OSError as error:
        logger.info(f"The list of images is not kept for the next run: {path}: {error.strerror}")


def _read_cache(path, folder, identity):
    """An `ImageIndex`, or None if the cache is missing, out of date, damaged or something else."""
    try:
        with np.load(path, allow_pickle=False) as file:  # a zip file, with checksums
            header = json.loads(file["header"].tobytes())
            if any(header[key] != value for key, value in identity.items()):
                return None
            states = map(tuple, file["states"].tolist())
            for place, state in zip(header["states"], states):
                if _state(os.path.join(folder, place)) != state:
                    return None
            arrays = SharedArrays((name, file[name]) for name in ("paths", "ends", "labels"))
        told = header["taken"], header["left_out"]
        return ImageIndex(header["classes"], arrays, True, *told)
    # Whatever may be wrong with a file: zipfile, zlib, json and NumPy have errors of their own.
    except Exception:
        return None
