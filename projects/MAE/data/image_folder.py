"""The images of a split: root/train/CLASS/**/image with labels, or any folder without."""
import copy
import functools
import logging
import os

import numpy as np

from projects.MAE.data.deep_pixels import BadImage
from projects.MAE.data.image_file import EXTENSIONS, Reading, read_image
from projects.MAE.data.image_index import load_index
from projects.MAE.errors import UserError, shortage

logger = logging.getLogger("libai." + __name__)

ONLY_PRETRAINING = "images without classes are for pretraining alone (mae_pretraining.py)"


class ImageFolder:
    """The images of one split and their labels; an index is a place in the sorted list of files.

    With labels the images are below root/train/CLASS and root/val/CLASS. Without, they are
    anywhere below root/train and root/val, in class folders or not; a root that has neither is the
    folder of training images itself. The list of a large folder is kept for the next run, see
    `image_index`.

    Args:
        root: the folder that holds train/ and val/.
        train: read train/ if True, else val/.
        config_key: the key that errors name; by default where the configs keep `root`.
        labelled: whether every image needs a class.
        reading: how files become pixels.

    Attributes:
        classes: the names of the class folders, sorted; a label is a place in this list.
        labels: int64 [len(self)], -1 for images in no class folder.
        checksum: of the list of files and labels; taken, left_out: what there is, see `ImageIndex`.

    Raises:
        UserError: no such root or split, no image, or with labels no class folders, or one without
            images.
    """

    def __init__(self, root, train=True, config_key=None, labelled=True, reading=Reading()):
        default_key = "dataloader.train.dataset.0.root" if train else "dataloader.test.0.dataset.root"
        self.config_key = config_key or default_key
        self.labelled, self.reading = labelled, reading
        self.root = find_split(root, train, self.config_key, labelled)
        self._index = self._load_index()
        self.classes = self._index.classes
        if labelled:
            self._check_classes()
            warn_of_numbers(tuple(self.classes), os.path.dirname(self.root))
        elif not len(self):
            raise UserError(
                f"{self.config_key}={root}: {self.root} holds no image at any depth "
                f"({', '.join(EXTENSIONS)}): put images there"
            )

    def __len__(self):
        return len(self._index)

    @property
    def labels(self):
        return self._index.labels

    @property
    def checksum(self):
        return self._index.checksum

    @property
    def taken(self):
        return self._index.taken

    @property
    def left_out(self):
        return self._index.left_out

    def read_as(self, reading):
        """The same images, whose files become pixels as a `Reading` says."""
        other = copy.copy(self)
        other.reading = reading
        return other

    def path(self, index):
        return os.path.join(self.root, self._index.path(index))

    def label(self, index):
        return int(self.labels[index])

    def read(self, index):
        """Decode a sample to an RGB `PIL.Image`, see `read_image`.

        Raises:
            BadImage: the file cannot be read or is not a whole image.
            UserError: there is no memory for it.
        """
        try:
            return read_image(self.path(index), self.reading)
        except MemoryError:
            raise UserError(
                f"{self.config_key}: there is no memory to decode {self.path(index)}: use fewer loader "
                "workers (num_workers)",
                local=True,
            ) from None

    def load(self, index):
        """As `read`, with a UserError for a `BadImage`, too."""
        try:
            return self.read(index)
        except BadImage as error:
            raise UserError(
                f"{self.config_key}: cannot read the image {self.path(index)}: {error}: replace or "
                "remove the file, or go on without it: data.on_error=skip",
                local=True,
            ) from error

    def _load_index(self):
        try:
            return load_index(self.root, EXTENSIONS, loose=not self.labelled)
        except OSError as error:
            raise shortage(error) or UserError(
                f"{self.config_key}: cannot list {error.filename}: {error.strerror}: mend its "
                "permissions"
            ) from None

    def _check_classes(self):
        if not self.classes:
            raise UserError(
                f"{self.config_key}: {self.root} has no class folders: images belong in "
                f"{os.path.join(self.root, 'CLASS', 'NAME.jpg')}; {ONLY_PRETRAINING}"
            )
        counts = np.bincount(self.labels, minlength=len(self.classes))
        if not counts.all():
            empty = os.path.join(self.root, self.classes[int(np.argmin(counts))])
            raise UserError(
                f"{self.config_key}: the class folder {empty} holds no image "
                f"({', '.join(EXTENSIONS)}): put images there or remove it"
            )


@functools.lru_cache(maxsize=None)  # train/ and val/ have the same
def warn_of_numbers(classes, root):
    """Warn where the order of class folders, which is that of text, is not that of their numbers."""
    if not all(name.isdecimal() for name in classes):
        return
    by_number = sorted(classes, key=int)
    label = next((i for i, pair in enumerate(zip(classes, by_number)) if len(set(pair)) > 1), None)
    if label is not None:
        logger.warning(
            f"{root}: its class folders are numbers, and sorted as text: label {label} is folder "
            f"{classes[label]}, not {by_number[label]}. For weights that count them as numbers, give "
            "all as many digits (00, 01, ...)"
        )


def find_split(root, train, key, labelled):
    """The folder of a split's images; raises a UserError, which names `key`, without one."""
    root, split = _existing_root(root, key), "train" if train else "val"
    folder = os.path.join(root, split)
    if os.path.isdir(folder):
        return folder
    if labelled:
        raise UserError(
            f"{key}={root}: it has no folder {split}/: images belong in "
            f"{os.path.join(folder, 'CLASS', 'NAME.jpg')}; {ONLY_PRETRAINING}"
        )
    if split == "val":
        raise UserError(
            f"{key}={root}: it has no folder val/ to evaluate on: put images there, or set "
            "train.evaluation.enabled=False"
        )
    if os.path.isdir(os.path.join(root, "val")):
        raise UserError(
            f"{key}={root}: it has a folder val/ but none named train/: put the images to train on "
            f"in {folder}, or name their folder itself"
        )
    return root


def _existing_root(root, key):
    if root is None or not str(root).strip():
        raise UserError(f"{key} is not set: give the folder that holds train/ and val/")
    root = os.path.expanduser(str(root))
    if not os.path.isdir(root):
        what = "is not a folder" if os.path.exists(root) else "does not exist"
        raise UserError(f"{key}={root}: this path {what}: give the folder that holds train/ and val/")
    return root
