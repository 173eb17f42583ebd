"""Reading an ImageNet-style folder: root/train/CLASS/**/image and root/val/CLASS/**/image."""
import os
import warnings

import numpy as np
from PIL import Image

from projects.MAE.data.image_index import load_index
from projects.MAE.errors import UserError

EXTENSIONS = (".jpg", ".jpeg", ".png", ".bmp", ".webp", ".ppm", ".pgm", ".tif", ".tiff")

# Some of ImageNet's files carry broken EXIF blocks. Nothing here reads them.
warnings.filterwarnings("ignore", message="(Possibly c|C)orrupt EXIF data", module="PIL")


class ImageFolder:
    """The images of one split and their labels; an index is a place in the sorted list of files.

    The list of a large folder is kept for the next run, see `image_index`.

    Args:
        root: the folder that holds train/ and val/.
        train: read train/ if True, else val/.
        extensions: what counts as an image, lower case with the dot. Hidden files never do.
        config_key: the key that errors name; by default where the configs keep `root`.

    Attributes:
        classes: the names of the class folders, sorted; a label is a place in this list.
        class_to_idx: {class name: label}.
        labels: int64 [len(self)].

    Raises:
        UserError: no such root or split, no class folders, or one without images.
    """

    def __init__(self, root, train=True, extensions=EXTENSIONS, config_key=None):
        default_key = "dataloader.train.dataset.0.root" if train else "dataloader.test.0.dataset.root"
        self.config_key = config_key or default_key
        self.root = _split_folder(root, "train" if train else "val", self.config_key)
        self._index = self._load_index(tuple(extensions))
        self.classes = self._index.classes
        self.class_to_idx = {name: label for label, name in enumerate(self.classes)}
        self._check_classes(root, extensions)

    def __len__(self):
        return len(self._index)

    @property
    def labels(self):
        return self._index.labels

    @property
    def samples(self):
        """[(path relative to the split's folder, label)], made on demand."""
        return [(self._index.path(i), self.label(i)) for i in range(len(self))]

    def path(self, index):
        """The file of a sample."""
        return os.path.join(self.root, self._index.path(index))

    def label(self, index):
        """The label of a sample, an int."""
        return int(self.labels[index])

    def load(self, index):
        """Decode a sample to an RGB `PIL.Image`; the EXIF orientation is not applied.

        Raises:
            UserError: the file cannot be read or is not a whole image.
        """
        path = self.path(index)
        try:
            with open(path, "rb") as file, Image.open(file) as image:
                return _to_rgb(image)
        # Pillow's decoders raise OSError, SyntaxError, ValueError, struct.error and more.
        except Exception as error:
            raise UserError(
                f"{self.config_key}: cannot read the image {path}: {_reason(path, error)}: "
                "replace or remove the file",
                local=True,
            ) from error

    def _load_index(self, extensions):
        try:
            return load_index(self.root, extensions)
        except OSError as error:
            raise UserError(
                f"{self.config_key}: cannot list {error.filename}: {error.strerror}: mend its "
                "permissions"
            ) from None

    def _check_classes(self, root, extensions):
        if not self.classes:
            raise UserError(
                f"{self.config_key}: {self.root} has no class folders: images belong in "
                f"{os.path.join(self.root, 'CLASS', 'NAME.jpg')}"
            )
        counts = np.bincount(self.labels, minlength=len(self.classes))
        if not counts.all():
            empty = os.path.join(self.root, self.classes[int(np.argmin(counts))])
            raise UserError(
                f"{self.config_key}={root}: the class folder {empty} holds no image "
                f"({', '.join(extensions)}): put images there or remove it"
            )


def _split_folder(root, split, key):
    if root is None or not str(root).strip():
        raise UserError(f"{key} is not set: give the folder that holds train/ and val/")
    root = os.path.expanduser(str(root))
    if not os.path.isdir(root):
        what = "is not a folder" if os.path.exists(root) else "does not exist"
        raise UserError(f"{key}={root}: this path {what}: give the folder that holds train/ and val/")
    folder = os.path.join(root, split)
    if not os.path.isdir(folder):
        raise UserError(
            f"{key}={root}: it has no folder {split}/: images belong in "
            f"{os.path.join(folder, 'CLASS', 'NAME.jpg')}"
        )
    return folder


def _to_rgb(image):
    if image.mode == "P" and "transparency" in image.info:
        # Straight to RGB, Pillow warns about transparency given as bytes; the colours are the same.
        image = image.convert("RGBA")
    if image.mode != "RGB":
        return image.convert("RGB")
    image.load()  # `convert` would copy every pixel
    return image


def _reason(path, error):
    if isinstance(error, OSError) and error.strerror:
        return error.strerror.lower()
    if os.path.getsize(path) == 0:
        return "the file is empty"
    if isinstance(error, Image.UnidentifiedImageError):
        return "it is not an image of a known format"
    return (str(error).splitlines() or [type(error).__name__])[0]
