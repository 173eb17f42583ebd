"""Reading an ImageNet-style folder: root/train/CLASS/**/image and root/val/CLASS/**/image."""
import os
import warnings

import numpy as np
from PIL import Image

from projects.MAE.errors import UserError

EXTENSIONS = (".jpg", ".jpeg", ".png", ".bmp", ".webp", ".ppm", ".pgm", ".tif", ".tiff")

# Some of ImageNet's files carry broken EXIF blocks. Nothing here reads them.
warnings.filterwarnings("ignore", message="(Possibly c|C)orrupt EXIF data", module="PIL")


class ImageFolder:
    """The images of one split and their labels; an index is a place in the sorted list of files.

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
        self.classes = _class_folders(self.root, self.config_key)
        self.class_to_idx = {name: label for label, name in enumerate(self.classes)}
        paths, counts = [], []
        for name in self.classes:
            found = sorted(_image_files(self.root, name, tuple(extensions)))
            if not found:
                raise UserError(
                    f"{self.config_key}={root}: the class folder {os.path.join(self.root, name)} "
                    f"holds no image ({', '.join(extensions)}): put images there or remove it"
                )
            paths += found
            counts.append(len(found))
        self.labels = np.repeat(np.arange(len(counts), dtype=np.int64), counts)
        self._paths = _PackedPaths(paths)

    def __len__(self):
        return len(self.labels)

    @property
    def samples(self):
        """[(path relative to the split's folder, label)], made on demand."""
        return [(self._paths[i], self.label(i)) for i in range(len(self))]

    def path(self, index):
        """The file of a sample."""
        return os.path.join(self.root, self._paths[index])

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


class _PackedPaths:
    """Paths as one byte string and an array of ends.

    Worker processes share memory with their parent until either writes to it, and counting
    references to a million str objects is writing: each worker would end up with its own copy.
    """

    def __init__(self, paths):
        encoded = [os.fsencode(path) for path in paths]
        self._bytes = b"".join(encoded)
        self._ends = np.cumsum([0] + [len(path) for path in encoded])

    def __getitem__(self, index):
        index = range(len(self._ends) - 1)[index]  # negative indices, IndexError
        return os.fsdecode(self._bytes[self._ends[index] : self._ends[index + 1]])


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


def _class_folders(folder, key):
    try:
        with os.scandir(folder) as entries:
            names = sorted(e.name for e in entries if e.is_dir() and not e.name.startswith("."))
    except OSError as error:
        raise UserError(f"{key}: cannot list {folder}: {error.strerror}: mend its permissions")
    if not names:
        raise UserError(
            f"{key}: {folder} has no class folders: images belong in "
            f"{os.path.join(folder, 'CLASS', 'NAME.jpg')}"
        )
    return names


def _image_files(root, folder, extensions):
    """Paths relative to root of the images at any depth below root/folder, in no order."""
    with os.scandir(os.path.join(root, folder)) as entries:
        for entry in entries:
            if entry.name.startswith("."):
                continue
            path = os.path.join(folder, entry.name)
            if entry.is_dir():
                yield from _image_files(root, path, extensions)
            elif entry.name.lower().endswith(extensions):
                yield path


def _to_rgb(image):
    if image.mode == "P" and "transparency" in image.info:
        # Straight to RGB, Pillow warns about transparency given as bytes; the colours are the same.
        image = image.convert("RGBA")
    return image.convert("RGB")


def _reason(path, error):
    if isinstance(error, OSError) and error.strerror:
        return error.strerror.lower()
    if os.path.getsize(path) == 0:
        return "the file is empty"
    if isinstance(error, Image.UnidentifiedImageError):
        return "it is not an image of a known format"
    return (str(error).splitlines() or [type(error).__name__])[0]
