"""From a sample's key to the arrays that a model takes."""
import copy
import unicodedata
from collections.abc import Sequence

import numpy as np
from PIL import Image

from projects.MAE.data.deep_pixels import BadImage
from projects.MAE.data.image_file import Reading
from projects.MAE.data.image_folder import ImageFolder
from projects.MAE.data.randomness import AUGMENTATION, DROP_PATH, MASKING, sample_generator
from projects.MAE.errors import UserError

# Unreadable images in a row after which the disk is to blame, not the images.
MOST_IN_A_ROW = 100


class _ImageDataset:
    """What both kinds of data set share: reading, augmenting, and unreadable files.

    Args:
        root, train, config_key: see `ImageFolder`.
        transform: `(PIL.Image, rng) -> float32 [3, H, W]`.
        seed: the run's seed.
        on_error: what to do about a file that can't be read: "raise" a UserError, or "skip" it. In
            training the next readable image of the list then takes its place, with the randomness
            of the one that it replaces; in evaluation a black one that is not valid does. So what a
            sample is still depends on nothing but seed, epoch and index.
        exif, bits: see `Reading`.

    Attributes:
        classes, num_classes, labelled: as `ImageFolder` has them.

    Raises:
        UserError: on_error is something else, or see `ImageFolder`.
    """

    labelled = True

    def __init__(self, root, train, transform, seed, config_key, on_error, exif, bits):
        if on_error not in ("raise", "skip"):
            raise UserError(f"data.on_error={on_error} must be raise or skip")
        reading = Reading(exif, bits)
        self.images = ImageFolder(root, train, config_key, self.labelled, reading)
        self.train, self.transform = train, transform
        self.seed, self.on_error = seed, on_error

    @property
    def classes(self):
        return self.images.classes

    @property
    def num_classes(self):
        return len(self.classes)

    def __len__(self):
        return len(self.images)

    def path(self, index):
        """The file of a sample."""
        return self.images.path(index)

    def evaluated_with(self, transform, reading=None):
        """The same images as evaluation takes them: in another transform, without draws, and with
        another `Reading` of the files, if given."""
        other = copy.copy(self)
        other.images = self.images.read_as(reading or self.images.reading)
        other.train, other.transform, other.drop_path_draws = False, transform, 0
        return other

    def __getitem__(self, key):
        """The arrays of the sample that a `SampleKey` names, as {field: array}.

        Where the file was skipped, "skipped" is (index of the sample, why it can't be read).

        Raises:
            UserError: the file can't be read and is not to be skipped, or too many can't.
        """
        image, index, reason = self._read(key.index)
        if reason is not None and not self.train:
            key = key._replace(valid=False)
        sample = {"images": self.transform(image, self._generator(key, AUGMENTATION))}
        self._add_fields(sample, key, index)
        if not self.train:
            sample["valid"] = np.bool_(key.valid)
        if reason is not None:
            sample["skipped"] = key.index, reason
        return sample

    def _read(self, index):
        """(image, its index, None or why it is not the image of the index asked for)."""
        if self.on_error == "raise":
            return self.images.load(index), index, None
        try:
            return self.images.read(index), index, None
        except BadImage as error:
            reason = str(error)
        if not self.train:
            return Image.new("RGB", (1, 1)), index, reason
        return (*self._next_readable(index, reason), reason)

    def _next_readable(self, index, reason):
        """(image, its index) of the first readable one after an unreadable one, in a circle."""
        tries = min(len(self), MOST_IN_A_ROW)
        for offset in range(1, tries):
            other = (index + offset) % len(self)
            try:
                return self.images.read(other), other
            except BadImage:
                continue
        raise UserError(
            f"{self.images.config_key}: {tries} images in a row can't be read, the first is "
            f"{self.path(index)}: {reason}: see whether the disk is there and the files are images",
            local=True,
        )

    def _generator(self, key, stream):
        return sample_generator(self.seed, key.epoch, key.index, stream)

    def _noise(self, key, stream, size):
        return self._generator(key, stream).random(size, dtype=np.float32)


class PretrainingDataset(_ImageDataset):
    """Images, in class folders or not, and masking noise.

    A sample is {"images": float32 [3, H, W], "noise": float32 [num_patches] in [0, 1)}, and
    "valid": bool where train is False. The noise decides which patches are masked; in evaluation it
    is the same in every run of the same seed, since its keys all have epoch 0.

    Args:
        img_size, patch_size: of the model, in pixels; they decide how many draws an image needs.
        For the others see `_ImageDataset`.
    """

    labelled = False

    def __init__(
        self,
        root,
        train,
        transform,
        img_size,
        patch_size,
        seed=0,
        config_key=None,
        on_error="raise",
        exif="apply",
        bits=None,
    ):
        super().__init__(root, train, transform, seed, config_key, on_error, exif, bits)
        self.num_patches = (img_size // patch_size) ** 2

    def _add_fields(self, sample, key, index):
        sample["noise"] = self._noise(key, MASKING, self.num_patches)


class ClassificationDataset(_ImageDataset):
    """Images and labels.

    A sample is {"images": float32 [3, H, W], "labels": int64 scalar, -1 where the key is not
    valid}, "drop_path_noise": float32 [2 * depth] in [0, 1) in training with stochastic depth, and
    "valid": bool where train is False.

    Args:
        depth, drop_path_rate: of the model; stochastic depth needs two draws a block.
        For the others see `_ImageDataset`.
    """

    def __init__(
        self,
        root,
        train,
        transform,
        depth=0,
        drop_path_rate=0.0,
        seed=0,
        config_key=None,
        on_error="raise",
        exif="apply",
        bits=None,
    ):
        super().__init__(root, train, transform, seed, config_key, on_error, exif, bits)
        self.drop_path_draws = 2 * depth if train and drop_path_rate > 0 else 0

    def _add_fields(self, sample, key, index):
        sample["labels"] = np.int64(self.images.label(index) if key.valid else -1)
        if self.drop_path_draws:
            sample["drop_path_noise"] = self._noise(key, DROP_PATH, self.drop_path_draws)


class ConcatenatedDataset:
    """Several data sets, with labels all of the same classes (else a UserError), one after the other.

    An index past the first data set's end is the sample's place in a later one; randomness depends on
    the place within its own data set.
    """

    def __init__(self, datasets):
        self.datasets = list(datasets)
        for other in self.datasets[1:]:
            if getattr(other, "labelled", classes_of(other)):
                check_same_classes(self.datasets[0], other)
        self.classes = classes_of(self.datasets[0])
        self.num_classes = len(self.classes)
        self._ends = np.cumsum([len(dataset) for dataset in self.datasets])

    @property
    def on_error(self):
        return "skip" if any(may_skip(d) for d in self.datasets) else "raise"

    def __len__(self):
        return int(self._ends[-1])

    def __getitem__(self, key):
        dataset, start = self._find(key.index)
        sample = dataset[key._replace(index=key.index - start)]
        if "skipped" in sample:
            index, reason = sample["skipped"]
            sample["skipped"] = index + start, reason
        return sample

    def path(self, index):
        dataset, start = self._find(index)
        return dataset.path(index - start)

    def _find(self, index):
        """(data set that holds a sample, place of that set's first)."""
        which = int(np.searchsorted(self._ends, index, side="right"))
        return self.datasets[which], int(self._ends[which - 1]) if which else 0


def may_skip(dataset):
    """Whether a data set may skip images; one of the user's own need not say."""
    return getattr(dataset, "on_error", "raise") == "skip"


def files_of(dataset):
    """The `ImageFolder` of a data set, None for one of the user's own, which may have no files."""
    images = getattr(dataset, "images", None)
    return images if isinstance(images, ImageFolder) else None


def classes_of(dataset):
    """The names of the classes of a data set, [] where one of the user's own has none.

    Raises:
        UserError: its `classes` is no list.
    """
    found = getattr(dataset, "classes", None)
    if found is None:
        return []
    if isinstance(found, str) or not isinstance(found, (Sequence, np.ndarray)):
        name = type(dataset).__name__
        raise UserError(f"the data set {name}: classes is {found!r}: make it a list of their names")
    return list(found)


def comparable(names):
    """Names of classes in one Unicode form: a disk may keep é as two characters, another as one."""
    return [unicodedata.normalize("NFC", name) for name in names]


def prepared(dataset, transform, reading):
    """A data set `evaluated_with` a transform and, where it reads files in another way, a `Reading`."""
    files = files_of(dataset)
    other = [reading] if files and files.reading != reading else []
    return dataset.evaluated_with(transform, *other)


def place_of(dataset):
    """Where a data set's images are, for messages: their folder; of others the name of the class."""
    images = files_of(dataset)
    return images.root if images else type(dataset).__name__


def check_same_classes(first, second):
    """Raise a `UserError` unless two data sets have the same class folders.

    A label is a place in the sorted list of folders, so one missing folder would shift all others.
    """
    ours, theirs = comparable(classes_of(first)), comparable(classes_of(second))
    if ours == theirs:
        return
    differing = sorted(set(ours) ^ set(theirs))
    if not differing:
        raise UserError(
            f"dataloader: {place_of(first)} and {place_of(second)} have the same classes in another "
            "order: a label is a place in that list, so give them the same"
        )
    has, lacks = (first, second) if differing[0] in ours else (second, first)
    key = files_of(second).config_key if files_of(second) else "dataloader"
    raise UserError(
        f"{key}: {place_of(lacks)} has no class folder {differing[0]}, but {place_of(has)} has "
        f"({len(differing)} class folders differ): the same class folders are needed in both"
    )
