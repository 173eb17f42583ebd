"""From a sample's key to the arrays that a model takes."""
import numpy as np

from projects.MAE.data.image_folder import ImageFolder
from projects.MAE.data.randomness import AUGMENTATION, DROP_PATH, MASKING, sample_generator
from projects.MAE.errors import UserError


class _ImageDataset:
    """What both kinds of data set share: reading, augmenting, and unreadable files.

    Attributes:
        classes, num_classes: as `ImageFolder` has them.
    """

    def __init__(self, root, train, transform, seed, config_key):
        self.images = ImageFolder(root, train, config_key=config_key)
        self.train = train
        self.transform = transform
        self.seed = seed

    @property
    def classes(self):
        return self.images.classes

    @property
    def num_classes(self):
        return len(self.classes)

    def __len__(self):
        return len(self.images)

    def __getitem__(self, key):
        """The arrays of the sample that a `SampleKey` names, as {field: array}.

        Raises:
            UserError: the file can't be read.
        """
        image = self.images.load(key.index)
        sample = {"images": self.transform(image, self._generator(key, AUGMENTATION))}
        self._add_fields(sample, key)
        if not self.train:
            sample["valid"] = np.bool_(key.valid)
        return sample

    def _generator(self, key, stream):
        return sample_generator(self.seed, key.epoch, key.index, stream)

    def _noise(self, key, stream, size):
        return self._generator(key, stream).random(size, dtype=np.float32)


class PretrainingDataset(_ImageDataset):
    """Images and masking noise.

    A sample is {"images": float32 [3, H, W], "noise": float32 [num_patches] in [0, 1)}, and
    "valid": bool where train is False. The noise decides which patches are masked; in evaluation it
    is the same in every run of the same seed, since its keys all have epoch 0.

    Args:
        root, train: see `ImageFolder`.
        transform: `(PIL.Image, rng) -> float32 [3, H, W]`.
        img_size, patch_size: of the model, in pixels; they decide how many draws an image needs.
        seed: the run's seed.
        config_key: the key that errors name.
    """

    def __init__(self, root, train, transform, img_size, patch_size, seed=0, config_key=None):
        super().__init__(root, train, transform, seed, config_key)
        self.num_patches = (img_size // patch_size) ** 2

    def _add_fields(self, sample, key):
        sample["noise"] = self._noise(key, MASKING, self.num_patches)


class ClassificationDataset(_ImageDataset):
    """Images and labels.

    A sample is {"images": float32 [3, H, W], "labels": int64 scalar, -1 where the key is not
    valid}, "drop_path_noise": float32 [2 * depth] in [0, 1) in training with stochastic depth, and
    "valid": bool where train is False.

    Args:
        root, train: see `ImageFolder`.
        transform: `(PIL.Image, rng) -> float32 [3, H, W]`.
        depth, drop_path_rate: of the model; stochastic depth needs two draws a block.
        seed: the run's seed.
        config_key: the key that errors name.
    """

    def __init__(
        self, root, train, transform, depth=0, drop_path_rate=0.0, seed=0, config_key=None
    ):
        super().__init__(root, train, transform, seed, config_key)
        self.drop_path_draws = 2 * depth if train and drop_path_rate > 0 else 0

    def _add_fields(self, sample, key):
        sample["labels"] = np.int64(self.images.label(key.index) if key.valid else -1)
        if self.drop_path_draws:
            sample["drop_path_noise"] = self._noise(key, DROP_PATH, self.drop_path_draws)


class ConcatenatedDataset:
    """Several data sets of the same classes, one after the other.

    An index past the first data set's end is the sample's place in a later one; randomness depends on
    the place within its own data set.

    Raises:
        UserError: the data sets' classes differ.
    """

    def __init__(self, datasets):
        self.datasets = list(datasets)
        for other in self.datasets[1:]:
            check_same_classes(self.datasets[0], other)
        self._ends = np.cumsum([len(dataset) for dataset in self.datasets])

    @property
    def classes(self):
        return self.datasets[0].classes

    @property
    def num_classes(self):
        return self.datasets[0].num_classes

    def __len__(self):
        return int(self._ends[-1])

    def __getitem__(self, key):
        which = int(np.searchsorted(self._ends, key.index, side="right"))
        start = int(self._ends[which - 1]) if which else 0
        return self.datasets[which][key._replace(index=key.index - start)]


def check_same_classes(first, second):
    """Raise a `UserError` unless two data sets have the same class folders.

    A label is a place in the sorted list of folders, so one missing folder would shift all others.
    """
    if first.classes == second.classes:
        return
    ours, theirs = first.images, second.images
    differing = sorted(set(first.classes) ^ set(second.classes))
    name = differing[0]
    has, lacks = (ours, theirs) if name in ours.class_to_idx else (theirs, ours)
    raise UserError(
        f"{second.images.config_key}: {lacks.root} has no class folder {name}, but {has.root} has "
        f"({len(differing)} class folders differ): the same class folders are needed in both"
    )
