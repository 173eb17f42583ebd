"""Images that a command line names: files, and folders of them."""
import hashlib
import os
from collections import Counter

import numpy as np

from projects.MAE.data.deep_pixels import BadImage
from projects.MAE.data.image_file import EXTENSIONS, Reading, read_image
from projects.MAE.data.image_index import ImageIndex, index_arrays, load_index
from projects.MAE.data.shared_arrays import SharedArrays
from projects.MAE.errors import UserError


class ImageList:
    """The images of a folder, or those that are named one by one; an index is a place in the list.

    A folder is searched at any depth, without hidden files; its subfolders are the classes. Files
    are taken as they are named. A list pickled to worker processes takes no memory there.

    Args:
        paths: one folder, or files and folders in any order; images below several folders have no
            classes.
        option: what errors name.

    Attributes:
        root: the folder, or None.
        classes: names of the folder's subfolders, sorted; [] without them.
        labels: int64 [len(self)], places in classes, -1 for an image in no subfolder.
        taken, left_out: what there is in the folder, see `ImageIndex`.

    Raises:
        UserError: no such file or folder, or a folder without an image.
    """

    def __init__(self, paths, option="--images"):
        paths = [os.path.expanduser(str(path)) for path in paths]
        for path in paths:
            if not os.path.exists(path):
                raise UserError(f"{option} {path}: no such file or folder")
        self.root = paths[0] if len(paths) == 1 and os.path.isdir(paths[0]) else None
        if self.root is not None:
            self._index = _index_folder(self.root, option)
        else:
            self._index = _index_files([file for path in paths for file in _files(path, option)])
        self.classes = self._index.classes
        self.taken, self.left_out = self._index.taken, self._index.left_out

    def __len__(self):
        return len(self._index)

    @property
    def labels(self):
        return self._index.labels  # an attribute would be copied into every worker process

    def name(self, index):
        """The path of an image, below the root where there is one."""
        return self._index.path(index)

    def path(self, index):
        return os.path.join(self.root or "", self.name(index))

    def checksum(self):
        """SHA-256 of each image's name, size and time of change."""
        sum_of = hashlib.sha256()
        for index in range(len(self)):
            try:
                status = os.stat(self.path(index))
                known = status.st_size, status.st_mtime_ns
            except OSError as error:  # reading it will say more
                known = "gone", error.errno
            sum_of.update(os.fsencode(self.name(index)) + b"\0%r %r\0" % known)
        return sum_of.hexdigest()


class ImageReader:
    """Reads images of a list by index and prepares them; picklable, for `data.workers`.

    Args:
        images: an `ImageList`.
        transform: `PIL.Image -> float32 [3, size, size]`.
        skip: give an image that can't be read as black; otherwise it is a UserError.
        reading: how files become pixels.
    """

    def __init__(self, images, transform, size, skip=False, reading=Reading()):
        self.images, self.transform, self.size, self.skip = images, transform, size, skip
        self.reading = reading

    def __call__(self, indices):
        """[index] -> {"images": float32 [n, 3, size, size], "readable": bool [n]}."""
        return SharedArrays.stack(len(indices), map(self._read, indices))

    def _read(self, index):
        path = self.images.path(index)
        try:
            image = self.transform(read_image(path, self.reading))
            return dict(images=image, readable=np.bool_(True))
        except MemoryError:
            raise UserError(
                f"there is no memory to decode {path}: use a smaller --num-workers or --batch-size"
            ) from None
        except BadImage as error:
            if not self.skip:
                raise UserError(
                    f"cannot read the image {path}: {error}: replace or remove it, or go on without "
                    "it: --on-error skip"
                ) from None
            black = np.zeros((3, self.size, self.size), np.float32)
            return dict(images=black, readable=np.bool_(False))


def _index_folder(folder, option):
    try:
        index = load_index(folder, EXTENSIONS, loose=True)
    except OSError as error:
        raise UserError(f"{option}: cannot list {error.filename}: {error.strerror}") from None
    if not len(index):
        raise UserError(f"{option} {folder}: no image at any depth ({', '.join(EXTENSIONS)})")
    return index


def _files(path, option):
    """The images a path stands for: itself, or those of a folder."""
    if not os.path.isdir(path):
        return [path]
    index = _index_folder(path, option)
    return [os.path.join(path, index.path(i)) for i in range(len(index))]


def _index_files(files):
    """An `ImageIndex` of files in the order given."""
    encoded, labels = [os.fsencode(file) for file in files], np.full(len(files), -1, np.int64)
    arrays = index_arrays(b"".join(encoded), map(len, encoded), labels)
    taken = Counter(os.path.splitext(file)[1].lower() for file in files)
    return ImageIndex([], arrays, False, taken)
