"""A machine that runs out of something: /dev/shm, open files, memory. The run ends at once, with
one line that says of what and how to get more, and the last checkpoint is whole.
"""
import os
import resource
import subprocess

import pytest

from projects.MAE.checkpoint.manifest import check_whole
from projects.MAE.checkpoint.names import find_checkpoint
from tests.support.command import ROOT, TINY, TINY_DECODER, WORKERS, environment, train_command
from tests.support.needs import mount_memory
from tests.support.started_run import StartedRun

SECONDS = 30
# What stands before a command in a mount namespace of its own.
SHM = {
    "read-only": "mount -t tmpfs -o ro tmpfs /dev/shm",
    "full": "mount -t tmpfs -o size=4k tmpfs /dev/shm && head -c 4096 /dev/zero > /dev/shm/full",
}


@pytest.fixture(autouse=True)
def may_mount(tmp_path):
    """Skips where nothing can be mounted, and nothing be unshared."""
    mount_memory(tmp_path)
    subprocess.run(["umount", tmp_path], check=True)


def run_with(before, data, folder, ranks, workers, seconds=100):
    """A tiny pretraining run after a line of shell; returns its status and what it printed."""
    command = train_command(
        "quickstart_pretraining.py", *TINY, *TINY_DECODER, *WORKERS,
        f"dataloader.train.dataset.0.root={data}", f"train.output_dir={folder}",
        f"dataloader.train.num_workers={workers}", ranks=ranks,
    )  # fmt: skip
    result = subprocess.run(
        ["unshare", "--mount", "bash", "-c", f'{before} && exec "$@"', "bash", *command],
        cwd=ROOT, env=environment(), stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True,
        timeout=seconds,
    )  # fmt: skip
    return result.returncode, result.stdout


def one_line(status, output, begins="error: "):
    """The line that says what has ended a run, which is the only one that says so."""
    others = ("[", "OMP: Warning")  # the log; MKL's threads where /dev/shm is read-only, and go on
    said = [line for line in output.splitlines() if line and not line.startswith(others)]
    assert status != 0 and len(said) == 1 and said[0].startswith(begins), output
    return said[0]


@pytest.mark.parametrize("ranks, workers, kind", [(2, 0, "read-only"), (1, 1, "full")])
def test_no_room_for_semaphores(image_folder, tmp_path, kind, ranks, workers):
    status, output = run_with(SHM[kind], image_folder, tmp_path / "run", ranks, workers)
    line = one_line(status, output)
    assert "/dev/shm" in line and "num_workers=0" in line and "--shm-size" in line


def test_a_library_finds_no_room_in_dev_shm(image_folder, tmp_path):
    status, output = run_with(SHM["full"], image_folder, tmp_path / "run", ranks=1, workers=0)
    assert "df -h /dev/shm" in one_line(status, output, "rank 0 died of signal 7 (BUS)")


def test_too_few_open_files_from_the_start(image_folder, tmp_path):
    """gRPC would abort, with what it says of itself."""
    status, output = run_with("ulimit -n 40", image_folder, tmp_path / "run", ranks=2, workers=0)
    assert "ulimit -n 4096" in one_line(status, output, "train.sh: 40 open files")


@pytest.mark.parametrize("ranks, workers", [(1, 1), (2, 0)])
def test_too_many_open_files_in_the_middle(image_folder, tmp_path, ranks, workers):
    settings = [f"dataloader.train.num_workers={workers}", "train.checkpointer.period=5"]
    with StartedRun(image_folder, tmp_path, *settings, ranks=ranks) as run:
        run.wait_for_iterations(6)
        rank = run.rank_processes()[0]
        used = max(map(int, os.listdir(f"/proc/{rank}/fd"))) + 1
        resource.prlimit(rank, resource.RLIMIT_NOFILE, (used, used))
        status, output = run.end(SECONDS)
    line = one_line(status, output)
    assert "too many open files" in line.lower() and "ulimit -n" in line
    check_whole(find_checkpoint(tmp_path))


def test_no_memory_from_the_start(image_folder, tmp_path):
    folder = tmp_path / "run"
    status, output = run_with("ulimit -v 3000000", image_folder, folder, ranks=1, workers=0)
    assert "no memory is left" in one_line(status, output)


@pytest.mark.parametrize("ranks, workers", [(1, 0), (2, 1)])
def test_no_memory_in_the_middle(image_folder, tmp_path, ranks, workers):
    settings = [f"dataloader.train.num_workers={workers}", "train.checkpointer.period=2"]
    with StartedRun(image_folder, tmp_path, *settings, ranks=ranks) as run:
        run.wait_for_iterations(3)
        rank = run.rank_processes()[-1]
        with open(f"/proc/{rank}/statm") as file:
            used = int(file.read().split()[0]) * resource.getpagesize()
        resource.prlimit(rank, resource.RLIMIT_AS, (used, used))
        status, output = run.end(SECONDS)
    line = one_line(status, output, "")
    assert "memory" in line and ("num_workers" in line or "train_micro_batch_size" in line)
    check_whole(find_checkpoint(tmp_path))
