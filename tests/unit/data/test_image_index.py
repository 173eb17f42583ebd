"""The list of images is read from the cache if, and only if, nothing has changed."""
import os
import pickle
import time
from concurrent.futures import ThreadPoolExecutor
from multiprocessing.reduction import ForkingPickler

import numpy as np
import pytest

from projects.MAE.data import image_index
from projects.MAE.data.image_folder import ImageFolder
from projects.MAE.data.image_index import ImageIndex, load_index
from projects.MAE.data.shared_arrays import SharedArrays
from projects.MAE.errors import UserError

# Longer than a tick of a local file system's clock.
TICK = 0.05
FILES = ["a/1.jpg", "a/2.JPEG", "a/deep/3.png", "b/1.jpg", "c/1.jpg"]


@pytest.fixture
def caches(monkeypatch, tmp_path):
    """A folder of caches that holds nothing; small folders and new ones are cached, too."""
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "caches"))
    monkeypatch.setattr(image_index, "WORTH_CACHING", 0)
    monkeypatch.setattr(image_index, "SETTLED_NS", 0)
    return tmp_path / "caches" / "mae-oneflow"


@pytest.fixture
def folder(tmp_path):
    """Three classes, and what doesn't count."""
    root = tmp_path / "images"
    for name in [*FILES, "a/notes.txt", "a/.hidden.jpg", ".b/1.jpg", "1.jpg"]:
        (root / name).parent.mkdir(parents=True, exist_ok=True)
        (root / name).touch()
    (root / "elsewhere").symlink_to("nowhere")
    time.sleep(TICK)
    return root


def load(folder):
    return load_index(str(folder), (".jpg", ".jpeg", ".png"))


def content(index):
    return [(index.path(i), index.classes[index.labels[i]]) for i in range(len(index))]


def test_the_second_time_it_comes_from_the_cache(caches, folder):
    expected = [(name, name[0]) for name in FILES]
    first, second = load(folder), load(folder)
    assert (first.from_cache, second.from_cache) == (False, True)
    assert content(first) == content(second) == expected
    assert first.classes == second.classes == ["a", "b", "c"]
    with pytest.raises(IndexError):
        second.path(len(FILES))
    assert second.path(-1) == "c/1.jpg"


def add_and_set_the_time_back(root):
    times = os.stat(root / "b")
    (root / "b" / "new.jpg").touch()
    os.utime(root / "b", ns=(times.st_atime_ns, times.st_mtime_ns))


CHANGES = {
    "file added": lambda root: (root / "b" / "2.jpg").touch(),
    "file added deep down": lambda root: (root / "a" / "deep" / "4.jpg").touch(),
    "file added, time set back": add_and_set_the_time_back,
    "file removed": lambda root: (root / "a" / "1.jpg").unlink(),
    "file renamed": lambda root: (root / "a" / "1.jpg").rename(root / "a" / "0.jpg"),
    "file moved": lambda root: (root / "a" / "1.jpg").rename(root / "b" / "5.jpg"),
    "class added": lambda root: (root / "d").mkdir(),
    "class renamed": lambda root: (root / "b").rename(root / "z"),
    "class replaced": lambda root: [
        (root / "b").rename(root.parent / "old"),
        (root / "c").rename(root / "b"),
        (root.parent / "old").rename(root / "c"),
    ],
    "class removed": lambda root: [(root / "c" / "1.jpg").unlink(), (root / "c").rmdir()],
    "link comes to life": lambda root: (root / "nowhere").mkdir(),
}


@pytest.mark.parametrize("change", CHANGES)
def test_every_change_is_noticed(caches, folder, change):
    load(folder)
    CHANGES[change](folder)
    time.sleep(TICK)
    changed = load(folder)
    assert not changed.from_cache
    again = load(folder)  # the cache was written anew
    assert again.from_cache and content(again) == content(changed)
    for path in caches.iterdir():
        path.unlink()
    assert content(load(folder)) == content(changed) and changed.classes == again.classes


def test_what_does_not_change_the_list_costs_nothing(caches, folder):
    load(folder)
    (folder / "a" / "1.jpg").write_bytes(b"other pixels")
    assert load(folder).from_cache


def test_other_extensions_are_another_list(caches, folder):
    load(folder)
    assert [path for path, _ in content(load_index(str(folder), (".png",)))] == ["a/deep/3.png"]


def test_a_folder_that_has_just_changed_is_not_trusted(caches, folder, monkeypatch):
    monkeypatch.setattr(image_index, "SETTLED_NS", 3600 * 10**9)
    assert not load(folder).from_cache and not load(folder).from_cache
    assert list(caches.iterdir()) == []


class Payload:
    """Makes a folder when it is unpickled."""

    def __init__(self, path):
        self.path = path

    def __reduce__(self):
        return os.mkdir, (self.path,)


def _truncate(path, folder):
    path.write_bytes(path.read_bytes()[:-100])


def _flip_a_bit(path, folder):
    content = bytearray(path.read_bytes())
    content[content.index(b"a/1.jpg")] ^= 1
    path.write_bytes(content)


def _of_another_folder(path, folder):
    other = folder.parent / "other"
    (other / "x").mkdir(parents=True)
    (other / "x" / "1.jpg").touch()
    time.sleep(TICK)
    load(other)
    (theirs,) = set(path.parent.iterdir()) - {path}
    theirs.replace(path)


DAMAGES = {
    "empty": lambda path, folder: path.write_bytes(b""),
    "text": lambda path, folder: path.write_text("not an index"),
    "truncated": _truncate,
    "flipped bit": _flip_a_bit,
    "pickle": lambda path, folder: path.write_bytes(pickle.dumps(Payload(str(folder / "hacked")))),
    "array of objects": lambda path, folder: np.savez(
        open(path, "wb"), header=np.array([Payload(str(folder / "hacked"))], dtype=object)
    ),
    "other folder's": _of_another_folder,
}


@pytest.mark.parametrize("damage", DAMAGES)
def test_a_damaged_or_foreign_cache_is_ignored(caches, folder, damage):
    expected = content(load(folder))
    (path,) = caches.iterdir()
    DAMAGES[damage](path, folder)
    found = load(folder)
    assert not found.from_cache and content(found) == expected
    assert load(folder).from_cache  # mended
    assert not (folder / "hacked").exists()


def test_many_at_once_leave_one_whole_cache(caches, folder):
    with ThreadPoolExecutor(8) as pool:
        found = list(pool.map(load, [folder] * 32))
    assert all(content(index) == content(found[0]) for index in found)
    assert len(list(caches.iterdir())) == 1 and load(folder).from_cache


def test_small_folders_are_not_cached(caches, folder, monkeypatch):
    monkeypatch.setattr(image_index, "WORTH_CACHING", 6)
    assert not load(folder).from_cache and not load(folder).from_cache


def test_no_place_for_a_cache_is_no_error(caches, folder, monkeypatch):
    monkeypatch.setenv("XDG_CACHE_HOME", "/dev/null")
    assert len(load(folder)) == len(load(folder)) == 5


def test_a_folder_that_others_can_write_to_is_no_place_for_a_cache(caches, folder):
    load(folder)
    assert load(folder).from_cache
    caches.chmod(0o777)
    assert not load(folder).from_cache


def test_names_that_are_not_unicode(caches, tmp_path):
    name = os.path.join(os.fsencode(tmp_path), b"images", b"class \xff", b"\xe9t\xe9.jpg")
    os.makedirs(os.path.dirname(name))
    open(name, "wb").close()
    time.sleep(TICK)
    first, second = load(tmp_path / "images"), load(tmp_path / "images")
    assert second.from_cache and content(first) == content(second)
    assert os.path.exists(tmp_path / "images" / second.path(0))


@pytest.mark.parametrize("make, part", [((), "no class folders"), (("a",), "holds no image")])
def test_nothing_to_read_is_an_error(caches, tmp_path, make, part):
    (tmp_path / "train").mkdir()
    for name in make:
        (tmp_path / "train" / name).mkdir()
    with pytest.raises(UserError, match=part):
        ImageFolder(tmp_path)


def test_a_folder_that_cannot_be_listed_is_an_error(caches, folder, monkeypatch):
    def refuse(path):
        raise PermissionError(13, "Permission denied", path)

    folder.rename(folder.parent / "train")
    monkeypatch.setattr(image_index.os, "scandir", refuse)
    with pytest.raises(UserError, match="cannot list .*train/: Permission denied"):
        ImageFolder(folder.parent)


def large_index(n=100_000):
    names = SharedArrays(
        paths=np.full(30 * n, ord("x"), np.uint8),
        ends=np.arange(0, 30 * n + 1, 30),
        labels=np.zeros(n, np.int64),
    )
    return ImageIndex(["a"], names, from_cache=False)


def test_workers_share_one_list():
    index = large_index()
    pickled = [bytes(ForkingPickler.dumps(index)) for _ in range(2)]
    assert max(map(len, pickled)) < 2000
    first, second = map(pickle.loads, pickled)
    assert first.path(99_999) == "x" * 30
    first.labels[5] = 7  # all of them are views of the same memory
    assert second.labels[5] == index.labels[5] == 7
