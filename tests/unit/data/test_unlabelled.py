"""Pretraining takes a folder of images however they lie in it; classification needs class folders."""
import inspect
import os
import sys
import time

import numpy as np
import pytest

from projects.MAE.data import image_index
from projects.MAE.data.build import build_image_train_loader, whole_dataset
from projects.MAE.data.datasets import ClassificationDataset, PretrainingDataset
from projects.MAE.data.image_folder import ImageFolder
from projects.MAE.data.transforms import Compose, RandomResizedCrop, ToArray
from projects.MAE.errors import UserError
from tests.support.images import write

TICK = 0.05  # longer than a tick of a local file system's clock


def names(folder, train=True):
    """The paths of the images that pretraining reads, relative to folder."""
    images = ImageFolder(folder, train, labelled=False)
    return [os.path.relpath(images.path(i), folder) for i in range(len(images))]


def samples(images):
    """[(path relative to the split's folder, label)]"""
    indices = range(len(images))
    return [(os.path.relpath(images.path(i), images.root), images.label(i)) for i in indices]


LAYOUTS = {
    "loose files": ["1.jpg", "2.png", "3.webp"],
    "train, loose files": ["train/1.jpg", "train/2.png"],
    "any depth": ["2021/05/trip/1.jpg", "2021/2.jpg", "2022/1.jpg", "0.jpg"],
    "class folders": ["train/a/1.jpg", "train/b/deep/1.jpg", "train/b/1.png"],
    "class folders and loose files": ["train/a/1.jpg", "train/b/1.jpg", "train/1.jpg"],
    "class folders without train": ["a/1.jpg", "b/1.jpg"],
}


@pytest.mark.parametrize("layout", LAYOUTS)
def test_pretraining_takes_every_layout(tmp_path, layout):
    for name in LAYOUTS[layout]:
        write(tmp_path, name)
    found = names(tmp_path)
    assert sorted(found) == sorted(LAYOUTS[layout])
    depth = 1 if layout.split(",")[0] == "loose files" or "train" not in found[0] else 2
    loose = [name.count("/") < depth for name in found]
    assert loose == sorted(loose)  # behind the others


def test_every_kind_of_image_in_any_case(tmp_path):
    kinds = "jpg jpeg jpe jfif png apng webp gif bmp tif tiff ppm pgm pbm pnm jp2 j2k avif".split()
    for kind in [*kinds, *(kind.upper() for kind in kinds)]:
        write(tmp_path, f"images/1.{kind}")
    for name in ("notes.txt", "images/clip.mp4", "jpg", "images/.hidden.jpg", ".thumbs/1.jpg"):
        write(tmp_path, name, b"")
    images = ImageFolder(tmp_path, labelled=False)
    assert len(images) == 2 * len(kinds)
    assert all(images.load(i).size == (16, 12) for i in range(len(images)))


def test_only_train_is_read_where_there_is_one(tmp_path):
    for name in ("train/1.png", "val/2.png", "test/3.png", "4.png"):
        write(tmp_path, name)
    assert names(tmp_path) == ["train/1.png"] and names(tmp_path, train=False) == ["val/2.png"]


def test_class_folders_keep_their_places(tmp_path):
    """A pretraining run is the same, whether its images have labels or not."""
    for name in ("train/b/1.png", "train/a/2.png", "train/a/b/1.png", "train/c/0.png"):
        write(tmp_path, name)
    with_labels, without = ImageFolder(tmp_path), ImageFolder(tmp_path, labelled=False)
    assert samples(with_labels) == samples(without) and with_labels.classes == without.classes


def test_links(tmp_path):
    write(tmp_path, "elsewhere/deep/1.png")
    file = write(tmp_path, "elsewhere/2.png")
    root = tmp_path / "root"
    write(root, "a/3.png")
    (root / "a" / "folder").symlink_to(tmp_path / "elsewhere")
    (root / "file.png").symlink_to(file)
    (root / "a" / "up").symlink_to(root)
    (root / "a" / "here").symlink_to(".")
    (root / "itself").symlink_to("itself")
    expected = ["a/3.png", "a/folder/2.png", "a/folder/deep/1.png", "file.png"]
    assert names(root) == expected
    (root / "around").symlink_to(tmp_path)  # each image again, but not for ever
    found = names(root)
    assert set(expected) < set(found) and len(found) < 40


def test_deeper_than_python_recurses(tmp_path):
    write(tmp_path, "/".join(["d"] * 400 + ["1.png"]))
    limit = sys.getrecursionlimit()
    sys.setrecursionlimit(len(inspect.stack(0)) + 200)
    try:
        assert ImageFolder(tmp_path, labelled=False).load(0).size == (16, 12)
    finally:
        sys.setrecursionlimit(limit)


ERRORS = {
    "nothing": ([], True, "holds no image at any depth .*put images there"),
    "no images": (["a/b/notes.txt"], True, "holds no image at any depth"),
    "val without train": (["val/1.png"], True, "folder val/ but none named train/"),
    "no val": (["1.png"], False, "no folder val/ to evaluate on.*train.evaluation.enabled=False"),
}


@pytest.mark.parametrize("case", ERRORS)
def test_what_pretraining_cannot_read(tmp_path, case):
    files, train, message = ERRORS[case]
    for name in files:
        write(tmp_path, name)
    with pytest.raises(UserError, match=message):
        names(tmp_path, train)


@pytest.mark.parametrize("layout", ["loose files", "train, loose files", "any depth"])
def test_classification_needs_class_folders(tmp_path, layout):
    for name in LAYOUTS[layout]:
        write(tmp_path, name)
    with pytest.raises(UserError, match="(no class folders|no folder train/).*pretraining alone"):
        ClassificationDataset(tmp_path, True, None)


def test_classification_leaves_loose_files_out(tmp_path):
    for name in ("train/1.png", "train/a/2.png", "train/b/3.png"):
        write(tmp_path, name)
    images = ImageFolder(tmp_path)
    assert [path for path, _ in samples(images)] == ["a/2.png", "b/3.png"]
    assert ImageFolder(tmp_path, labelled=False).labels.tolist() == [0, 1, -1]


def test_several_folders_need_not_agree(tmp_path):
    chain = Compose([RandomResizedCrop(8), ToArray()])
    for name in ("first/1.png", "first/a/2.png", "second/3.png", "second/b/c/4.png"):
        write(tmp_path, name)
    data = [PretrainingDataset(tmp_path / n, True, chain, 8, 4) for n in ("first", "second")]
    loader = build_image_train_loader(whole_dataset(data), 4, 0, 1, num_workers=0)
    (batch,) = loader
    assert len(np.unique(batch.get_fields()["images"].tensor.numpy().reshape(4, -1), axis=0)) == 4


@pytest.fixture
def cached(monkeypatch, tmp_path):
    """An unlabelled folder whose list is cached, however small and new it is."""
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "caches"))
    monkeypatch.setattr(image_index, "WORTH_CACHING", 0)
    monkeypatch.setattr(image_index, "SETTLED_NS", 0)
    for name in ("1.png", "a/2.png", "a/b/c/d/3.png"):
        write(tmp_path / "root", name)
    time.sleep(TICK)
    return tmp_path / "root"


CHANGES = {
    "loose file added": lambda root: write(root, "0.png"),
    "loose file removed": lambda root: (root / "1.png").unlink(),
    "file added deep down": lambda root: write(root, "a/b/c/d/4.png"),
    "folder added deep down": lambda root: write(root, "a/b/c/d/e/4.png"),
    "folder renamed deep down": lambda root: (root / "a/b/c").rename(root / "a/b/x"),
    "link to a folder added": lambda root: (root / "a/link").symlink_to(root / "a/b/c/d"),
}


@pytest.mark.parametrize("change", CHANGES)
def test_the_cache_notices_every_change(cached, change):
    before = names(cached)
    assert ImageFolder(cached, labelled=False)._index.from_cache
    CHANGES[change](cached)
    time.sleep(TICK)
    changed = ImageFolder(cached, labelled=False)
    assert not changed._index.from_cache and names(cached) != before
    assert ImageFolder(cached, labelled=False)._index.from_cache


def test_the_lists_with_and_without_loose_files_are_two(cached):
    names(cached)
    (cached.parent / "train").symlink_to(cached)
    labelled = ImageFolder(cached.parent)
    assert not labelled._index.from_cache and len(labelled) == 2
    for labels, count in ((True, 2), (False, 3)):
        images = ImageFolder(cached.parent, labelled=labels)
        assert images._index.from_cache and len(images) == count
