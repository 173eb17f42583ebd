"""Write scikit-learn's handwritten digits as image files.

    python -m projects.MAE.digits DIR

The data set is the 1,797 scans of the UCI "Optical Recognition of Handwritten Digits" test set,
8 x 8 pixels of 17 grey levels, which scikit-learn carries with it. It is written in the ImageNet
layout, DIR/train/CLASS/NNNN.png and DIR/val/CLASS/NNNN.png, with a fixed, stratified split.
"""
import functools
import os
import shutil
import sys

import numpy as np
from PIL import Image

from projects.MAE.command_line import CommandParser, run_command, show
from projects.MAE.errors import UserError

EXAMPLES = """examples:
  # the images of the quickstart
  python -m projects.MAE.digits output/digits
"""
VALIDATION_SHARE = 0.2


def write_digits(folder):
    """Write the images unless they are there; a folder is filled whole or not at all.

    Args:
        folder: where train/ and val/ will be.

    Returns:
        {"train": int, "val": int}, the number of images written; {} where the folder is not empty.
    """
    try:
        if os.path.lexists(folder) and os.listdir(folder):
            return {}
        return _write(folder)
    except NotADirectoryError:
        raise UserError(f"DIR {folder}: is no folder, or lies in none: name another") from None
    except OSError as error:
        raise UserError(f"DIR {folder}: can't be written: {error.strerror}: name another") from None


def _write(folder):
    from sklearn.datasets import load_digits  # slow to import, and --help does without it
    from sklearn.model_selection import train_test_split

    digits = load_digits()
    labels = digits.target
    train, val = train_test_split(
        np.arange(len(labels)), test_size=VALIDATION_SHARE, stratify=labels, random_state=0
    )
    beside = f"{folder.rstrip('/')}.partial"
    shutil.rmtree(beside, ignore_errors=True)
    pixels = np.round(digits.images * (255 / 16)).astype(np.uint8)
    for split, chosen in (("train", train), ("val", val)):
        for index in sorted(chosen):
            class_folder = os.path.join(beside, split, str(labels[index]))
            os.makedirs(class_folder, exist_ok=True)
            Image.fromarray(pixels[index]).save(os.path.join(class_folder, f"{index:04d}.png"))
    os.rename(beside, folder)
    return {"train": len(train), "val": len(val)}


def parse_arguments(argv):
    parser = CommandParser("digits", __doc__, EXAMPLES)
    parser.add_argument("folder", metavar="DIR", help="the folder to make")
    return parser.parse_args(argv)


def run(argv):
    folder = parse_arguments(argv).folder
    written = write_digits(folder)
    if written:
        show("Wrote {train} training and {val} validation images to ".format(**written) + folder)
    else:
        show(f"{folder} is there already")


main = functools.partial(run_command, run)

if __name__ == "__main__":
    sys.exit(main())
