"""Rows that outlive their process: whatever is left of the file, no wrong row is taken."""
import fcntl
import os
from pathlib import Path

import numpy as np
import pytest

from projects.MAE.errors import UserError
from projects.MAE.utils import row_file
from projects.MAE.utils.row_file import OtherRows, RowFile

COUNT, SHAPE, GROUP, HEAD = 11, (2, 3), 2, 32
GROUP_BYTES = GROUP * 24 + 4


@pytest.fixture
def path(tmp_path):
    return tmp_path / "rows"


@pytest.fixture
def rows():
    """Among them a row of zeros and one that is not a number, which are worth no less."""
    found = np.random.default_rng(0).standard_normal((COUNT, *SHAPE)).astype(np.float32)
    found[3], found[6] = 0, np.nan
    return found


def opened(path, of="mine", shape=SHAPE, group=GROUP, **options):
    return RowFile(path, of, COUNT, shape, group, **options)


def fill(file, rows, end=COUNT):
    """Write rows up to `end`."""
    for first in range(file.done, end, GROUP):
        file.write(rows[first : first + GROUP])


def assert_goes_on(path, rows, least):
    """A next process takes what is right, at least that much, and ends with all rows."""
    file = opened(path)
    assert least <= file.done and (file.done % GROUP == 0 or file.done == COUNT)
    fill(file, rows)
    assert file.done == COUNT
    np.testing.assert_array_equal(np.concatenate(list(file.groups())), rows)
    file.close()


def test_a_stop_at_any_byte_costs_a_group(path, rows):
    file = opened(path)
    fill(file, rows)
    file.close()
    whole = path.read_bytes()
    assert len(whole) == HEAD + COUNT * 24 + 6 * 4
    for length in range(len(whole) + 1):
        path.write_bytes(whole[:length])
        groups = max(length - HEAD, 0) // GROUP_BYTES
        assert_goes_on(path, rows, COUNT if length == len(whole) else groups * GROUP)
        assert path.read_bytes() == whole


def test_a_byte_that_is_wrong_anywhere(path, rows):
    file = opened(path)
    fill(file, rows)
    file.close()
    whole = path.read_bytes()
    for place in range(len(whole)):
        damaged = bytearray(whole)
        damaged[place] ^= 1
        path.write_bytes(damaged)
        if place < HEAD:
            with pytest.raises(OtherRows):
                opened(path)
        else:
            assert_goes_on(path, rows, (place - HEAD) // GROUP_BYTES * GROUP)
            assert path.read_bytes() == whole


@pytest.fixture
def disk(monkeypatch):
    """{inode: content at the last fsync}: what a file holds for sure after a power cut."""
    found, fsync = {}, os.fsync

    def sending(handle):
        if os.path.isfile(f"/proc/self/fd/{handle}"):
            found[os.fstat(handle).st_ino] = Path(f"/proc/self/fd/{handle}").read_bytes()
        fsync(handle)

    monkeypatch.setattr(os, "fsync", sending)
    return found


@pytest.mark.parametrize("seed", range(40))
def test_a_power_cut_costs_what_the_disk_did_not_get(path, rows, disk, monkeypatch, seed):
    rng = np.random.default_rng(seed)
    file, sure = opened(path), 0
    for end in range(GROUP, 1 + rng.integers(COUNT + GROUP), GROUP):
        is_time = bool(rng.integers(2))
        monkeypatch.setattr(row_file, "SYNC_SECONDS", 0 if is_time else 1e9)
        fill(file, rows, end)
        sure = file.done if is_time else sure
    file.close()
    seen, left = path.read_bytes(), disk[path.stat().st_ino]
    left += bytes(rng.integers(len(seen) - len(left) + 1))  # the disk may know of the length
    left = bytearray(left)
    for start in range(len(disk[path.stat().st_ino]), len(left), 16):  # and have some of the data
        if rng.integers(2):
            left[start : start + 16] = seen[start : min(start + 16, len(left))]
    path.write_bytes(left)
    assert_goes_on(path, rows, sure)


def test_a_power_cut_before_the_first_row(path, rows):
    opened(path).close()
    head = path.read_bytes()
    for left in (bytes(500), bytes(HEAD), head[:8] + bytes(500), head[:20]):
        path.write_bytes(left)
        assert_goes_on(path, rows, 0)


def test_rows_of_something_else_are_not_taken(path, rows):
    file = opened(path)
    fill(file, rows)
    file.close()
    whole = path.read_bytes()
    for other in (dict(of="yours"), dict(shape=(3, 2)), dict(shape=(6,)), dict(group=3)):
        with pytest.raises(OtherRows):
            opened(path, **other)
        assert path.read_bytes() == whole
    again = opened(path, anew=True)
    assert again.done == 0 and path.stat().st_size == HEAD
    again.close()


def test_old_blocks_in_a_file_that_was_begun_anew(path, rows):
    """What a power cut may bring back, on some file systems."""
    file = opened(path)
    fill(file, rows)
    file.close()
    whole = path.read_bytes()
    opened(path, of="yours", anew=True).close()
    path.write_bytes(path.read_bytes() + whole[HEAD:])
    assert opened(path, of="yours").done == 0


def test_one_process_at_a_time(path, rows):
    held = opened(path)
    with pytest.raises(UserError, match="another process writes it"):
        opened(path, anew=True)
    fill(held, rows)
    held.close()
    assert_goes_on(path, rows, COUNT)


def test_a_file_that_is_done_with_while_another_process_waits(path, rows, monkeypatch):
    first, flock = opened(path), fcntl.flock

    def late(*arguments):
        first.remove()
        flock(*arguments)

    monkeypatch.setattr(fcntl, "flock", late)
    with pytest.raises(UserError, match="another process writes it"):
        opened(path)
    assert not path.exists()


def test_the_name_is_sent_to_the_disk_too(path, monkeypatch):
    sent, fsync = [], os.fsync

    def sending(handle):
        sent.append(os.readlink(f"/proc/self/fd/{handle}"))
        fsync(handle)

    monkeypatch.setattr(os, "fsync", sending)
    opened(path).close()
    assert sent == [str(path.parent), str(path)]
