"""Extracting features: that a stop costs nothing, and nothing wrong is gone on with."""
import contextlib
import fcntl
import glob
import io
import json
import os
import pathlib
import re
import resource
import signal
import time

import numpy as np
import pytest
from PIL import Image
from safetensors.numpy import save_file

from projects.MAE import extract_features
from projects.MAE.data.preprocessing import standard_preprocessing
from projects.MAE.extract_features import main
from projects.MAE.models import Encoder
from projects.MAE.utils.row_file import RowFile
from tests.commands import process
from tests.commands.process import refused, succeed
from tests.commands.weights import golden_state
from tests.support.without_flock import refuse_flock

ROW = 32 * 4  # bytes of what one image gives
HEAD, SUM = 32, 4  # bytes of FILE.partial before the rows, and after each batch


def run_to_the_end(command, out):
    """Run the command; returns the content of its file, and the rows that it removed then."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(RowFile, "remove", RowFile.close)
        assert main([str(part) for part in (*command, "--out", out)]) == 0
    partial = out.with_name(f"{out.name}.partial")
    rows = partial.read_bytes()
    partial.unlink()
    return out.read_bytes(), rows


@pytest.fixture(scope="module")
def whole(weights, image_folder, tmp_path_factory):
    """A file that was written without a stop, in batches of 2, its rows, and its command."""
    out = tmp_path_factory.mktemp("whole") / "out.npz"
    options = ["--batch-size", 2, "--num-workers", 0]
    command = ["--weights", weights, "--images", image_folder / "val", *options]
    return (*run_to_the_end(command, out), command)


@pytest.mark.parametrize("share", [0.0, 0.01, 0.1, 0.5, 0.9, 0.999, 1.0])
def test_a_stop_at_any_byte_costs_nothing(whole, tmp_path, capsys, share):
    content, rows, command = whole
    (tmp_path / "out.npz.partial").write_bytes(rows[: int(share * len(rows))])
    succeed(capsys, main, *command, "--out", tmp_path / "out.npz")
    assert (tmp_path / "out.npz").read_bytes() == content
    assert os.listdir(tmp_path) == ["out.npz"]


def test_a_stop_while_the_rows_are_packed_costs_nothing(whole, tmp_path, capsys, encoded):
    content, rows, command = whole
    (tmp_path / "out.npz.partial").write_bytes(rows)
    (tmp_path / "out.npz.packing").write_bytes(content[: len(content) // 2] + bytes(5000))
    succeed(capsys, main, *command, "--out", tmp_path / "out.npz")
    assert (tmp_path / "out.npz").read_bytes() == content and encoded == []
    assert os.listdir(tmp_path) == ["out.npz"]


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
    content, rows, command = whole
    (tmp_path / "out.npz.partial").write_bytes(rows[: HEAD + 2 * (2 * ROW + SUM) + ROW])
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


def test_another_extraction_is_not_gone_on_with(whole, tmp_path, capsys):
    content, rows, command = whole
    out, partial = tmp_path / "out.npz", tmp_path / "out.npz.partial"
    partial.write_bytes(rows)
    for other in (["--batch-size", 3], ["--features", "class"], ["--block", 2]):
        other = [*command, "--out", out, *other]
        assert "other settings" in refused(capsys, main, *other)
        assert partial.read_bytes() == rows and not out.exists()
    succeed(capsys, main, *other, "--force")
    before, after = (np.load(file)["features"] for file in (io.BytesIO(content), out))
    assert before.shape == after.shape and (before != after).any(axis=1).all()


def test_other_weights_are_not_gone_on_with(golden, image_folder, tmp_path, capsys):
    """Of the same shapes, at the same place."""
    out = tmp_path / "out.npz"
    state, file = golden_state(golden, "mean"), tmp_path / "vit.safetensors"
    save_file(state, file)
    card = dict(num_heads=4, preprocessing=standard_preprocessing(32)._asdict())
    (tmp_path / "vit.safetensors.json").write_text(json.dumps(card))  # so nothing is assumed, nor said
    command = ["--weights", file, "--images", image_folder / "val", "--num-workers", 0]
    _, rows = run_to_the_end(command, out)
    out.rename(tmp_path / "before.npz")
    (tmp_path / "out.npz.partial").write_bytes(rows)
    state["blocks.0.attn.proj.bias"] = state["blocks.0.attn.proj.bias"] + np.float32(1)
    save_file(state, file)
    assert "other settings" in refused(capsys, main, *command, "--out", out)
    assert (tmp_path / "out.npz.partial").read_bytes() == rows and not out.exists()
    succeed(capsys, main, *command, "--out", out, "--force")
    before, after = (np.load(tmp_path / f"{name}.npz")["features"] for name in ("before", "out"))
    assert (before != after).any(axis=1).all()


def test_images_that_were_changed_are_not_gone_on_with(weights, tmp_path, capsys):
    folder, out = tmp_path / "images", tmp_path / "out.npz"
    (folder / "b").mkdir(parents=True)
    for i in range(3):
        Image.new("RGB", (40, 40), (80 * i, 0, 0)).save(folder / "b" / f"{i}.png")
    command = ["--weights", weights, "--images", folder, "--batch-size", 1, "--num-workers", 0]
    content, rows = run_to_the_end(command, out)
    out.unlink()
    partial = tmp_path / "out.npz.partial"
    partial.write_bytes(rows)
    command += ["--out", out]
    (folder / "a").mkdir()  # a class without images, but the labels of the others change
    assert "images that were changed since" in refused(capsys, main, *command)
    (folder / "a").rmdir()
    Image.new("RGB", (40, 40), (0, 99, 0)).save(folder / "b" / "1.png")  # of the same size, that is
    assert "images that were changed since" in refused(capsys, main, *command)
    assert partial.read_bytes() == rows and not out.exists()
    succeed(capsys, main, *command, "--force")
    before, after = (np.load(file)["features"] for file in (io.BytesIO(content), out))
    assert (before != after).any(axis=1).tolist() == [False, True, False]


def test_what_an_earlier_version_left_is_not_gone_on_with(whole, tmp_path, capsys, encoded):
    """It wrote the .npz file itself from front to end."""
    content, _, command = whole
    command, partial = [*command, "--out", tmp_path / "out.npz"], tmp_path / "out.npz.partial"
    for length in (len(content) // 2, len(content)):
        partial.write_bytes(content[:length])
        assert "an earlier version" in refused(capsys, main, *command)
        assert partial.read_bytes() == content[:length] and encoded == []
    succeed(capsys, main, *command, "--force")
    assert (tmp_path / "out.npz").read_bytes() == content
    assert os.listdir(tmp_path) == ["out.npz"]


@pytest.mark.parametrize("zeroed", [3, 16, 100, 5 * ROW, 9 * ROW, 10_000])
def test_a_tail_of_zeros_is_computed_anew(whole, tmp_path, capsys, zeroed):
    """What a power cut may leave: the whole length, and no data where the disk got none."""
    content, rows, command = whole
    kept = rows[: max(len(rows) - zeroed, 0)]
    (tmp_path / "out.npz.partial").write_bytes(kept.ljust(len(rows), b"\0"))
    succeed(capsys, main, *command, "--out", tmp_path / "out.npz")
    assert (tmp_path / "out.npz").read_bytes() == content


def test_rows_that_the_disk_no_longer_gives_when_they_are_packed(whole, tmp_path, capsys, encoded):
    content, _, command = whole
    command, partial = [*command, "--out", tmp_path / "out.npz"], tmp_path / "out.npz.partial"
    pack = extract_features.pack

    def pack_damaged(*arguments):
        with open(partial, "r+b") as file:
            file.seek(HEAD + 3 * ROW)
            file.write(bytes(8))
        return pack(*arguments)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(extract_features, "pack", pack_damaged)
        error = refused(capsys, main, *command)
    assert "rows that were written can't be read" in error
    assert os.listdir(tmp_path) == [partial.name]
    assert sum(encoded) == 9
    succeed(capsys, main, *command)
    assert (tmp_path / "out.npz").read_bytes() == content and encoded[5:] == [2, 2, 2, 1]


def test_the_file_is_on_the_disk_before_it_has_its_name(whole, tmp_path, capsys, monkeypatch):
    content, _, command = whole
    out, sent, fsync, rename, remove = tmp_path / "out.npz", [], os.fsync, os.rename, os.remove

    def sending(handle):
        path = f"/proc/self/fd/{handle}"
        sent.append(b"" if os.path.isdir(path) else pathlib.Path(path).read_bytes())
        fsync(handle)

    def renaming(old, new):
        if new == str(out):
            assert sent[-1] == content
        rename(old, new)

    def removing(path):
        assert str(path) != f"{out}.partial" or (out.read_bytes() == content and sent[-1] == b"")
        remove(path)

    monkeypatch.setattr(os, "fsync", sending)
    monkeypatch.setattr(os, "rename", renaming)
    monkeypatch.setattr(os, "remove", removing)
    succeed(capsys, main, *command, "--out", out)
    assert out.read_bytes() == content


def test_force_starts_anew(whole, tmp_path, capsys, encoded):
    content, rows, command = whole
    (tmp_path / "out.npz.partial").write_bytes(rows)
    succeed(capsys, main, *command, "--out", tmp_path / "out.npz", "--force")
    assert sum(encoded) == 9 and (tmp_path / "out.npz").read_bytes() == content


def test_two_processes_do_not_write_one_file(whole, tmp_path, capsys):
    content, rows, command = whole
    command, partial = [*command, "--out", tmp_path / "out.npz"], tmp_path / "out.npz.partial"
    partial.write_bytes(rows)
    with open(partial, "rb") as held:
        fcntl.flock(held, fcntl.LOCK_EX)
        for more in ([], ["--force"]):
            assert "another process writes it" in refused(capsys, main, *command, *more)
            assert partial.read_bytes() == rows and os.listdir(tmp_path) == [partial.name]
    succeed(capsys, main, *command)
    assert (tmp_path / "out.npz").read_bytes() == content


def test_a_disk_without_locks(whole, tmp_path):
    content, _, command = whole
    command = [*command, "--out", tmp_path / "out.npz"]
    status, _, error = process.run("extract_features", *command, preexec_fn=refuse_flock)
    assert status == 0, error
    assert "can't be locked on this file system" in error and error.count("\n") == 1
    assert (tmp_path / "out.npz").read_bytes() == content


@pytest.mark.parametrize("done", [7, 9])
def test_a_disk_that_fills_up(weights, image_folder, tmp_path, done):
    """In the middle of a batch, and when the rows are packed."""
    out = tmp_path / "out.npz"
    command = ["--weights", weights, "--images", image_folder / "val", "--features", "all"]
    command += ["--batch-size", 1, "--num-workers", 0]
    content, rows = run_to_the_end(command, out)
    out.unlink()
    size = HEAD + 7 * (17 * ROW + SUM) + 99 if done == 7 else len(content) - 1
    assert 13_000 < size < len(rows) or done == 9  # a batch of images is a file, too
    assert len(rows) <= size < len(content) or done == 7

    def limit():
        resource.setrlimit(resource.RLIMIT_FSIZE, (size, size))

    command += ["--out", out]
    status, told, error = process.run("extract_features", *command, preexec_fn=limit)
    assert (status, told, error.count("\n")) == (1, "", 1)
    assert f"File too large: {done} of 9 images are kept in" in re.sub(r" \(.* free\)", "", error)
    assert "the same command goes on from there" in error
    assert os.listdir(tmp_path) == ["out.npz.partial"]
    assert main([str(a) for a in command]) == 0
    assert out.read_bytes() == content


def test_a_disk_that_takes_nothing(command, tmp_path, capsys):
    os.symlink("/dev/full", tmp_path / "out.npz.partial")
    error = refused(capsys, main, *command)
    assert "out.npz.partial: can't be written" in error


def test_a_disk_that_is_too_small(whole, tmp_path, capsys, monkeypatch):
    """At the end it holds the rows twice."""
    content, rows, command = whole
    command = [*command, "--out", tmp_path / "out.npz"]
    (tmp_path / "out.npz.partial").write_bytes(rows[: HEAD + 2 * ROW + SUM])
    monkeypatch.setattr(extract_features, "free_bytes", lambda folder: (7 + 9) * ROW - 1)
    error = refused(capsys, main, *command)
    assert "the features need 2.0 kB more" in error and "the disk has 2.0 kB" in error
    monkeypatch.setattr(extract_features, "free_bytes", lambda folder: (7 + 9) * ROW)
    succeed(capsys, main, *command)
    assert (tmp_path / "out.npz").read_bytes() == content
