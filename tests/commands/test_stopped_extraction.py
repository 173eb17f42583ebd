"""Extracting features: that a stop costs nothing, and nothing wrong is gone on with."""
import contextlib
import glob
import io
import os
import resource
import signal
import time

import numpy as np
import pytest
from PIL import Image

from projects.MAE.errors import UserError
from projects.MAE.extract_features import main
from projects.MAE.models import Encoder
from projects.MAE.utils import feature_file
from projects.MAE.utils.feature_file import FeatureFile
from tests.commands import process
from tests.commands.process import refused, succeed
from tests.without_flock import refuse_flock


@pytest.fixture(scope="module")
def whole(weights, image_folder, tmp_path_factory):
    """A file that was written without a stop, in batches of 2, and its command."""
    path = tmp_path_factory.mktemp("whole") / "out.npz"
    options = ["--batch-size", 2, "--num-workers", 0]
    command = ["--weights", weights, "--images", image_folder / "val", *options]
    assert main([str(a) for a in (*command, "--out", path)]) == 0
    return path.read_bytes(), command


@pytest.mark.parametrize("share", [0.0, 0.1, 0.5, 0.6, 0.8, 0.9, 0.98, 1.0])
def test_a_stop_at_any_byte_costs_nothing(whole, tmp_path, capsys, share):
    content, command = whole
    out = tmp_path / "out.npz"
    partial = tmp_path / "out.npz.partial"
    partial.write_bytes(content[: int(share * len(content))])
    succeed(capsys, main, *command, "--out", out)
    assert out.read_bytes() == content and not partial.exists()


@pytest.fixture
def encoded(monkeypatch):
    """The number of images of each batch that is encoded."""
    found, encode = [], Encoder.encode

    def counting(self, images, *rest):
        found.append(len(images))
        return encode(self, images, *rest)

    monkeypatch.setattr(Encoder, "encode", counting)
    return found


def test_rows_that_are_there_are_not_computed_again(whole, tmp_path, capsys, encoded):
    content, command = whole
    body = content.index(b"features.npy")
    (tmp_path / "out.npz.partial").write_bytes(content[: body + 128 + 5 * 32 * 4 + 100])
    succeed(capsys, main, *command, "--out", tmp_path / "out.npz")
    assert encoded == [2, 2, 1]  # 4 of the 5 rows were whole batches
    assert (tmp_path / "out.npz").read_bytes() == content


def test_killed_for_real(weights, tmp_path):
    folder = tmp_path / "images"
    folder.mkdir()
    rng = np.random.default_rng(0)
    for i in range(300):
        Image.fromarray(rng.integers(0, 256, (64, 64, 3), dtype=np.uint8)).save(folder / f"{i}.png")
    command = ["--weights", weights, "--images", folder, "--batch-size", 1, "--features", "all"]
    status, _, error = process.run("extract_features", *command, "--out", tmp_path / "whole.npz")
    assert status == 0, error
    for signum in (signal.SIGKILL, signal.SIGINT):
        out, partial = tmp_path / f"{signum}.npz", tmp_path / f"{signum}.npz.partial"
        running = process.start("extract_features", *command, "--out", out)
        try:
            while not (partial.exists() and partial.stat().st_size > 50_000):
                assert running.poll() is None, running.communicate()[1]
                time.sleep(0.01)
            running.send_signal(signum)
            _, error = running.communicate(timeout=120)
        finally:
            running.kill()
            running.wait()
        assert running.returncode == (-9 if signum == signal.SIGKILL else 130) and error == ""
        assert partial.exists() and not out.exists()
        status, _, error = process.run("extract_features", *command, "--out", out)
        assert status == 0, error
        assert out.read_bytes() == (tmp_path / "whole.npz").read_bytes()


@pytest.mark.parametrize(
    "options, command", [([], "command goes on"), (["--force"], "without --force")]
)
def test_a_reader_that_is_killed(weights, tmp_path, options, command):
    files = [tmp_path / "image.png", tmp_path / "endless.png"]
    Image.new("RGB", (40, 40)).save(files[0])
    os.mkfifo(files[1])  # a reader waits here
    arguments = ["--weights", weights, "--out", tmp_path / "out.npz", "--batch-size", 1, *options]
    running = process.start("extract_features", *arguments, "--images", *files)
    try:
        partial = tmp_path / "out.npz.partial"
        while not (partial.exists() and readers_of(running.pid)):
            assert running.poll() is None, running.communicate()[1]
            time.sleep(0.01)
        os.kill(readers_of(running.pid)[0], signal.SIGKILL)
        _, error = running.communicate(timeout=120)
    finally:
        running.kill()
        running.wait()
    assert running.returncode == 1 and error.count("\n") == 1
    assert "a process that reads images died" in error and "--resume" not in error
    assert command in error and "smaller --num-workers" in error


def readers_of(pid):
    """The processes that the fork server of a command has started."""
    parents = {}
    for path in glob.glob("/proc/[0-9]*/stat"):
        with contextlib.suppress(FileNotFoundError, ProcessLookupError), open(path) as file:
            parents[int(path.split("/")[2])] = int(file.read().rpartition(")")[2].split()[1])
    return [child for child, parent in parents.items() if parents.get(parent) == pid]


def test_another_extraction_is_not_gone_on_with(whole, command, tmp_path, capsys):
    content, _ = whole
    (tmp_path / "out.npz.partial").write_bytes(content[:-200])
    other = [*command, "--batch-size", 3, "--num-workers", 0]
    assert "other settings" in refused(capsys, main, *other)
    assert (tmp_path / "out.npz.partial").read_bytes() == content[:-200]
    succeed(capsys, main, *other, "--force")
    assert len(np.load(tmp_path / "out.npz")["features"]) == 9


def test_images_that_were_changed_are_not_gone_on_with(weights, tmp_path, capsys):
    folder, out = tmp_path / "images", tmp_path / "out.npz"
    folder.mkdir()
    for i in range(3):
        Image.new("RGB", (40, 40), (80 * i, 0, 0)).save(folder / f"{i}.png")
    command = ["--weights", weights, "--images", folder, "--out", out, "--batch-size", 1]
    command += ["--num-workers", 0]
    succeed(capsys, main, *command)
    content, partial = out.read_bytes(), tmp_path / "out.npz.partial"
    out.rename(partial)
    Image.new("RGB", (40, 40), (0, 99, 0)).save(folder / "1.png")  # of the same size, that is
    assert "images that were changed since" in refused(capsys, main, *command)
    assert partial.read_bytes() == content and not out.exists()
    succeed(capsys, main, *command, "--force")
    before, after = (np.load(file)["features"] for file in (io.BytesIO(content), out))
    assert (before != after).any(axis=1).tolist() == [False, True, False]


@pytest.mark.parametrize("zeroed", [16, 100, 5 * 32 * 4, 9 * 32 * 4])
def test_a_tail_of_zeros_is_computed_anew(whole, tmp_path, capsys, zeroed):
    """What a power cut may leave: the whole length, and no data where the disk got none."""
    content, command = whole
    rows = np.load(io.BytesIO(content))["features"].tobytes()
    end = content.index(rows) + len(rows)
    holed = content[: end - zeroed] + bytes(zeroed) + bytes(len(content) - end)
    (tmp_path / "out.npz.partial").write_bytes(holed)
    succeed(capsys, main, *command, "--out", tmp_path / "out.npz")
    assert (tmp_path / "out.npz").read_bytes() == content


def test_rows_after_a_hole_are_computed_anew(tmp_path):
    rows = np.random.default_rng(0).standard_normal((11, 3, 4)).astype(np.float32)

    def file():
        return FeatureFile(tmp_path / "out.npz", {}, len(rows), (3, 4), group=2)

    whole = file()
    whole.write(rows)
    whole.close()
    with open(whole.partial, "r+b") as partial:
        partial.seek(-5 * 48, os.SEEK_END)
        partial.write(bytes(20))  # in row 6
    again = file()
    assert again.done == 6
    again.write(rows[6:])
    again.finish()
    np.testing.assert_array_equal(np.load(tmp_path / "out.npz")["features"], rows)


def test_rows_are_sent_to_the_disk_now_and_then(tmp_path, monkeypatch):
    monkeypatch.setattr(feature_file, "SYNC_SECONDS", 0)
    sent, fsync = [], os.fsync

    def counting(handle):
        sent.append(os.fstat(handle).st_size)
        fsync(handle)

    monkeypatch.setattr(os, "fsync", counting)
    file = FeatureFile(tmp_path / "out.npz", {}, 2, (4,), group=1)
    for _ in range(2):
        file.write(np.ones((1, 4), np.float32))
    file.close()
    assert np.diff(sent).tolist() == [16, 16]


def test_force_starts_anew(whole, tmp_path, capsys, encoded):
    content, command = whole
    (tmp_path / "out.npz.partial").write_bytes(content)
    succeed(capsys, main, *command, "--out", tmp_path / "out.npz", "--force")
    assert sum(encoded) == 9 and (tmp_path / "out.npz").read_bytes() == content


def test_two_processes_do_not_write_one_file(command, capsys):
    held = FeatureFile(command[-1], {"a": np.arange(3)}, 4, (2,), group=1)
    assert "another process writes it" in refused(capsys, main, *command)
    held.write(np.ones((4, 2), np.float32))
    held.finish()
    assert np.load(command[-1])["features"].sum() == 8


def test_a_disk_without_locks(whole, tmp_path):
    content, command = whole
    command = [*command, "--out", tmp_path / "out.npz"]
    status, _, error = process.run("extract_features", *command, preexec_fn=refuse_flock)
    assert status == 0, error
    assert "can't be locked on this file system" in error and error.count("\n") == 1
    assert (tmp_path / "out.npz").read_bytes() == content


def test_a_full_disk(command, tmp_path, capsys):
    os.symlink("/dev/full", tmp_path / "out.npz.partial")
    error = refused(capsys, main, *command)
    assert "the disk is full: 0 of 9 images are kept" in error and "goes on from there" in error


def test_a_disk_that_fills_up(whole, tmp_path):
    content, command = whole

    def limit():
        resource.setrlimit(resource.RLIMIT_FSIZE, (len(content) - 1500,) * 2)

    command = [*command, "--out", tmp_path / "out.npz"]
    status, out, error = process.run("extract_features", *command, preexec_fn=limit)
    assert (status, out, error.count("\n")) == (1, "", 1)
    assert "of 9 images are kept in" in error and not (tmp_path / "out.npz").exists()
    assert main([str(a) for a in command]) == 0
    assert (tmp_path / "out.npz").read_bytes() == content


def test_a_disk_that_is_too_small(tmp_path):
    with pytest.raises(UserError, match="need .* TB more, and the disk has"):
        FeatureFile(tmp_path / "out.npz", {}, 10**12, (1000,), group=1)
