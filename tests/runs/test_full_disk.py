"""A disk that fills up while a run goes on: what can't be written is named once, never by a traceback."""
import contextlib
import signal
import subprocess
import sys

import pytest

from projects.MAE.checkpoint.manifest import check_whole
from projects.MAE.checkpoint.names import find_checkpoint
from tests.support.command import ROOT
from tests.support.needs import mount_memory
from tests.support.runs import metrics
from tests.support.started_run import StartedRun, wait_until


@pytest.fixture
def small_disk(tmp_path):
    """A disk of 8 MB, in memory."""
    disk = tmp_path / "disk"
    disk.mkdir()
    mount_memory(disk, "-o", "size=8m")
    yield disk
    subprocess.run(["umount", "--lazy", disk], check=True)


def fill(disk):
    """Leave no byte free; returns the file that takes them."""
    filler = disk / "filler"
    with open(filler, "wb", buffering=0) as file, contextlib.suppress(OSError):
        while True:
            file.write(bytes(4096))
    return filler


def lines_with(text, output):
    return [line for line in output.splitlines() if text in line]


def wait_for(run, text, seconds=60):
    assert wait_until(lambda: text in run.log.read_text(), seconds), run.log.read_text()


def test_a_run_goes_on_without_its_log(image_folder, tmp_path, small_disk):
    folder = small_disk / "run"
    with StartedRun(image_folder, folder, ranks=2, log=tmp_path / "output") as run:
        run.wait_for_iterations(3)
        filler = fill(small_disk)
        for name in ("log.txt", "metrics.json", "tensorboard/events.out"):
            wait_for(run, f"WARNING: {folder}/{name}")
        filler.unlink()
        seen = len(metrics(folder))
        run.wait_for_iterations(seen + 2)
        run.launcher.send_signal(signal.SIGTERM)
        status, output = run.end()
    assert status == 0 and "Traceback" not in output and "Logging error" not in output, output
    refused = lines_with("No space left on device (0 bytes free)", output)
    assert len(refused) == 3 and all("WARNING" in line for line in refused), refused
    check_whole(find_checkpoint(folder))
    missing = set(range(1, metrics(folder)[-1]["iteration"])) - {m["iteration"] for m in metrics(folder)}
    assert missing  # and no line is half there: all could be read
    log = (folder / "log.txt").read_text()
    assert "Stopped after iteration" in log and all(line[:1] == "[" for line in log.splitlines())


def test_a_run_that_cannot_save_ends_with_one_error(image_folder, tmp_path, small_disk):
    folder = small_disk / "run"
    with StartedRun(image_folder, folder, ranks=2, log=tmp_path / "output") as run:
        run.wait_for_iterations(3)
        fill(small_disk)
        wait_for(run, f"WARNING: {folder}/log.txt")
        run.launcher.send_signal(signal.SIGTERM)
        status, output = run.end()
    assert status == 1 and "Traceback" not in output and "Logging error" not in output, output
    (error,) = lines_with("error: ", output)
    assert "a checkpoint needs" in error and "the disk has 0 bytes free" in error


def test_a_full_disk_under_standard_output(tmp_path):
    code = """if True:
        import logging, sys
        from projects.MAE.monitor.log import start_log
        logger = start_log(sys.argv[1], int(sys.argv[2]))
        for i in range(3):
            logger.info(f"line {i}")
    """
    with open("/dev/full", "w") as full:
        for rank in ("0", "1"):
            result = subprocess.run(
                [sys.executable, "-u", "-c", code, tmp_path, rank],
                cwd=ROOT,
                stdout=full,
                stderr=subprocess.PIPE,
                text=True,
            )
            assert result.returncode == 0
            told = "standard output can't be written: No space left on device\n" if rank == "0" else ""
            assert result.stderr.endswith(told) and result.stderr.count("\n") == bool(told)
            name = "log.txt" if rank == "0" else "log.txt.rank1"
            assert (tmp_path / name).read_text().count("line ") == 3
    (tmp_path / "log.txt.rank1").unlink()
    (tmp_path / "log.txt.rank1").symlink_to("/dev/full")
    result = subprocess.run(
        [sys.executable, "-u", "-c", code, tmp_path, "1"], cwd=ROOT, stderr=subprocess.PIPE, text=True
    )
    assert result.returncode == 0 and result.stderr.count("\n") == 1
    assert f"{tmp_path}/log.txt.rank1" in result.stderr and "No space left" in result.stderr
