"""A run that is stopped or breaks leaves nothing behind: no process, shared memory or port."""
import os
import re
import shlex
import signal
import socket
import subprocess
import sys
import time

import pytest

from tests.support.command import ROOT, TINY, TINY_DECODER, environment, pretrain, train_command
from tests.support.started_run import StartedRun, shared_memory_of, wait_until


@pytest.mark.parametrize("kill", ["interrupt", "launcher", "rank"])
def test_nothing_is_left(image_folder, tmp_path, kill):
    with StartedRun(image_folder, tmp_path, ranks=4 if kill == "rank" else 2) as run:
        run.wait_for_iterations()
        shared = shared_memory_of(run.processes())
        ranks = run.rank_processes()
        with open(f"/proc/{ranks[0]}/environ") as file:
            port = int(re.search(r"\0MASTER_PORT=(\d+)", file.read()).group(1))
        if kill == "interrupt":
            os.killpg(run.launcher.pid, signal.SIGINT)  # as a terminal does on Ctrl-C
        elif kill == "launcher":
            run.launcher.kill()
        else:
            os.kill(ranks[2], signal.SIGKILL)
        gone = time.monotonic() + 30  # seconds for everything
        status, output = run.end(30)
        assert (status == 0) == (kill == "interrupt"), output
        assert wait_until(lambda: not run.processes(), gone - time.monotonic()), run.processes()
    if kill == "rank":
        said = [line for line in output.splitlines() if line.startswith("rank ")]
        assert len(said) == 1 and "died of signal 9 (KILL)" in said[0], output
        assert "train.sh: line" not in output
        assert shared and not [name for name in shared if os.path.exists(name)]
    with socket.create_server(("127.0.0.1", port)):
        pass  # OneFlow's port is free


def test_nothing_is_left_of_a_launcher_killed_while_its_ranks_begin(image_folder, tmp_path):
    for attempt in range(6):
        with StartedRun(image_folder, tmp_path / str(attempt), ranks=2) as run:
            while not run.rank_processes():
                assert run.launcher.poll() is None, run.log.read_text()
            time.sleep(0.005 * attempt)
            run.launcher.kill()
            run.launcher.wait(30)
            assert wait_until(lambda: not run.processes(), 30), (attempt, run.log.read_text())


def test_a_rank_below_a_wrapper_is_no_orphan(image_folder, tmp_path, monkeypatch):
    wrapper = tmp_path / "python"
    wrapper.write_text(f'#!/bin/sh\n"{sys.executable}" "$@"\nexit $?\n')
    wrapper.chmod(0o755)
    monkeypatch.setattr(sys, "executable", str(wrapper))  # which the command is given
    pretrain(image_folder, tmp_path / "run", "train.train_iter=1")


@pytest.mark.parametrize("streams", ["", "2>&1"])
def test_a_run_outlives_what_reads_its_output(image_folder, tmp_path, streams):
    """`| head -1`, of standard output and of both streams: the run goes on to its end."""
    settings = [f"dataloader.train.dataset.0.root={image_folder}", f"train.output_dir={tmp_path}/run"]
    settings += [*TINY, *TINY_DECODER, "train.visualize.after_n_epoch=null"]
    command = shlex.join(train_command("quickstart_pretraining.py", *settings, ranks=2))
    script = f"set -o pipefail; {command} {streams} | head -1"
    result = subprocess.run(
        ["bash", "-c", script], cwd=ROOT, env=environment(), capture_output=True, text=True, timeout=300
    )
    assert result.returncode == 0, result.stdout + result.stderr
    assert len(result.stdout.splitlines()) == 1
    assert result.stderr == ("" if streams else "standard output can't be written: Broken pipe\n")
    assert (tmp_path / "run/model_final").exists()
    assert "Traceback" not in (tmp_path / "run/log.txt").read_text()
