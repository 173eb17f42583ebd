"""Writes scikit-learn's handwritten digits as image files: python -m projects.MAE.data.digits DIR

The data set is the 1,797 scans of the UCI "Optical Recognition of Handwritten Digits" test set,
8 x 8 pixels of 17 grey levels, which scikit-learn carries with it. It is written in the ImageNet
layout, DIR/train/CLASS/NNNN.png and DIR/val/CLASS/NNNN.png, with a fixed, stratified split.
"""
import argparse
import os
import shutil

import numpy as np
from PIL import Image
from sklearn.datasets import load_digits
from sklearn.model_selection import train_test_split

VALIDATION_SHARE = 0.2


def write_digits(folder):
    """Write the images unless they are there; a folder appears whole or not at all.

    Args:
        folder: where train/ and val/ will be.

    Returns:
        {"train": int, "val": int}, the number of images written, or {} where the folder was there.
    """
    if os.path.isdir(folder):
        return {}
    digits = load_digits()
    indices = np.arange(len(digits.target))
    train, val = train_test_split(
        indices, test_size=VALIDATION_SHARE, stratify=digits.target, random_state=0
    )
    beside = f"{folder.rstrip('/')}.partial"
    shutil.rmtree(beside, ignore_errors=True)
    pixels = np.round(digits.images * (255 / 16)).astype(np.uint8)
    for split, chosen in (("train", train), ("val", val)):
        for index in sorted(chosen):
            class_folder = os.path.join(beside, split, str(digits.target[index]))
            os.makedirs(class_folder, exist_ok=True)
            Image.fromarray(pixels[index]).save(os.path.join(class_folder, f"{index:04d}.png"))
    os.rename(beside, folder)
    return {"train": len(train), "val": len(val)}


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("folder", metavar="DIR", help="the folder to make")
    folder = parser.parse_args().folder
    written = write_digits(folder)
    if written:
        print(f"Wrote {written['train']} training and {written['val']} validation images to {folder}")


if __name__ == "__main__":
    main()
