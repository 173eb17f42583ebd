"""A run that is stopped leaves no process behind."""
import contextlib
import os
import signal
import subprocess
import time

import pytest

from tests.command import CONFIGS, ROOT, TINY, TINY_DECODER, environment


def processes_of(marker, where="environ"):
    """Ids of processes, workers too, whose environment (or ranks, whose cmdline) holds it."""
    found = []
    for entry in os.listdir("/proc"):
        if entry.isdigit():
            try:
                with open(f"/proc/{entry}/{where}", "rb") as file:
                    if marker.encode() in file.read():
                        found.append(int(entry))
            except OSError:
                continue  # it ended meanwhile
    return found


def wait_until(condition, seconds):
    deadline = time.monotonic() + seconds
    while not condition() and time.monotonic() < deadline:
        time.sleep(0.1)
    return condition()


@pytest.mark.parametrize("kill", ["interrupt", "launcher", "rank"])
def test_nothing_is_left(image_folder, tmp_path, kill):
    marker = f"train.output_dir={tmp_path}"
    log = open(tmp_path / "output", "w")
    run = subprocess.Popen(
        ["bash", ROOT / "tools/train.sh", "projects/MAE/train_net.py"]
        + [f"{CONFIGS}/quickstart_pretraining.py", "2", *TINY, *TINY_DECODER, marker]
        + [f"dataloader.train.dataset.0.root={image_folder}", "train.train_iter=100000"],
        cwd=ROOT,
        env=environment() | {"STARTED_BY": marker},
        stdout=log,
        stderr=subprocess.STDOUT,
        start_new_session=True,
    )
    try:
        metrics = tmp_path / "metrics.json"
        assert wait_until(lambda: metrics.exists() and metrics.stat().st_size > 0, 120)
        if kill == "interrupt":
            os.killpg(run.pid, signal.SIGINT)  # as a terminal does on Ctrl-C
        elif kill == "launcher":
            run.kill()
        else:
            ranks = [pid for pid in processes_of(marker, "cmdline") if pid != run.pid]
            os.kill(max(ranks), signal.SIGKILL)
        status = run.wait(60)
        assert status != 0
        assert wait_until(lambda: not processes_of(marker), 30), processes_of(marker)
    finally:
        for pid in processes_of(marker):  # of a run that a failure leaves behind
            with contextlib.suppress(ProcessLookupError):
                os.kill(pid, signal.SIGKILL)
