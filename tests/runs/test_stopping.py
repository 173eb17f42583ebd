"""Runs that are asked to stop or to save, and go on later."""
import fcntl
import os
import pty
import select
import shlex
import signal
import subprocess
import sys
import termios
import time

import pytest

from projects.MAE.checkpoint.names import find_checkpoint
from projects.MAE.checkpoint.reader import read_card, read_weights
from projects.MAE.utils.signals import SAME_REQUEST_SECONDS
from tests.support.command import (
    ROOT,
    TINY,
    TINY_DECODER,
    environment,
    pretrain,
    train_command,
)
from tests.support.runs import assert_same_weights, metrics
from tests.support.started_run import StartedRun, wait_until


def stopped_line(output):
    (line,) = [line for line in output.splitlines() if "Stopped after iteration" in line]
    return line


def checkpoint_iteration(folder):
    return read_card(find_checkpoint(folder))["iteration"]


@pytest.mark.parametrize("ranks, number", [(1, signal.SIGINT), (2, signal.SIGTERM)])
def test_a_signal_saves_and_the_printed_command_goes_on(image_folder, tmp_path, ranks, number):
    folder = tmp_path / "run"
    with StartedRun(image_folder, folder, ranks=ranks) as run:
        run.wait_for_iterations(3)
        run.launcher.send_signal(number)
        status, output = run.end(30)
        assert status == 0, output
        assert wait_until(lambda: not run.processes(), 30)
    done = checkpoint_iteration(folder)
    line = stopped_line(output)
    assert f"Stopped after iteration {done} of 100000 ({number.name})" in line
    assert find_checkpoint(folder) in line and "Traceback" not in output
    assert metrics(folder)[-1]["iteration"] == done
    # The last of equal keys wins.
    command = shlex.split(line.split("to go on: ")[1]) + [f"train.train_iter={done + 2}"]
    subprocess.run(command, cwd=ROOT, env=environment(), check=True, timeout=200)
    trained = [line["iteration"] for line in metrics(folder) if "total_loss" in line]
    assert trained == list(range(1, done + 3))


def test_a_second_signal_ends_at_once_and_harms_nothing(image_folder, tmp_path):
    settings = ["train.checkpointer.period=1", "train.checkpointer.max_to_keep=2"]
    with StartedRun(image_folder, tmp_path, *settings, ranks=2) as run:
        run.wait_for_iterations(3)
        for process in run.rank_processes():
            os.kill(process, signal.SIGSTOP)  # a step that does not end
        for _ in range(2):
            run.launcher.send_signal(signal.SIGTERM)
            time.sleep(0.5)  # for the launcher to take it up
        status, output = run.end(30)
        assert status == 143 and "Traceback" not in output, output
        assert wait_until(lambda: not run.processes(), 30)
    assert read_weights(find_checkpoint(tmp_path))


def test_a_rank_alone_takes_a_second_signal_for_what_it_is(image_folder, tmp_path):
    code = """if True:
        import os, signal, time
        from projects.MAE.utils.signals import Listener
        listener = Listener()
        listener.start()
        print("ready", flush=True)
        while True:
            time.sleep(0.1)
            print(listener.stop, listener.save, flush=True)
    """
    process = subprocess.Popen(
        [sys.executable, "-c", code], cwd=ROOT, stdout=subprocess.PIPE, text=True
    )
    try:
        assert process.stdout.readline() == "ready\n"
        process.send_signal(signal.SIGUSR1)
        while process.stdout.readline() != " True\n":
            pass
        process.send_signal(signal.SIGTERM)
        while process.stdout.readline() != "SIGTERM True\n":
            pass
        time.sleep(SAME_REQUEST_SECONDS + 0.5)
        process.send_signal(signal.SIGINT)
        assert process.wait(30) == 128 + signal.SIGINT
    finally:
        process.kill()


def test_signals_before_the_first_step(image_folder, tmp_path):
    with StartedRun(image_folder, tmp_path, ranks=2) as run:
        assert wait_until(lambda: "cpu ranks" in run.log.read_text(), 100)
        run.launcher.send_signal(signal.SIGUSR1)  # there is nothing to save yet
        time.sleep(0.5)
        run.launcher.send_signal(signal.SIGTERM)
        status, output = run.end(30)
        assert wait_until(lambda: not run.processes(), 30)
    # Where the run has been faster than this test, it has saved.
    assert status == 143 or stopped_line(output), output
    assert "died of signal" not in output and "Traceback" not in output


def test_sigusr1_saves_and_goes_on(image_folder, tmp_path):
    with StartedRun(image_folder, tmp_path, ranks=2) as run:
        run.wait_for_iterations(2)
        run.launcher.send_signal(signal.SIGUSR1)
        assert wait_until(lambda: (tmp_path / "last_checkpoint").exists(), 60), run.log.read_text()
        saved = checkpoint_iteration(tmp_path)
        run.wait_for_iterations(saved + 2)
        os.kill(run.rank_processes()[1], signal.SIGTERM)  # of one rank: all of them stop
        status, output = run.end(30)
    assert status == 0 and saved < checkpoint_iteration(tmp_path), output


def test_max_seconds_postpones_the_evaluation(image_folder, tmp_path):
    folder = tmp_path / "run"
    settings = ["train.train_iter=3", "train.evaluation.eval_period=1", "train.max_seconds=0.1"]
    output = pretrain(image_folder, tmp_path / "two", *settings, ranks=2)  # each has its own clock
    assert "Stopped after iteration 1 of 3 (train.max_seconds=0.1)" in stopped_line(output)
    output = pretrain(image_folder, folder, *settings)
    assert "Stopped after iteration 1 of 3 (train.max_seconds=0.1)" in stopped_line(output)
    assert not (folder / "model_best").exists()
    for _ in range(2):  # the last time, of an evaluation alone
        output = pretrain(image_folder, folder, *settings, "--resume")
    assert "Stopped after iteration 3 of 3" in stopped_line(output)
    settings[-1] = "train.max_seconds=null"
    output = pretrain(image_folder, folder, *settings, "--resume")
    assert "Stopped" not in output and output.count("Evaluation: ") == 1
    pretrain(image_folder, tmp_path / "whole", *settings)
    assert_same_weights(folder / "model_best", tmp_path / "whole" / "model_best")
    assert read_card(folder / "model_best") == read_card(tmp_path / "whole" / "model_best")


def test_a_terminal_that_is_closed(image_folder, tmp_path):
    """It sends SIGHUP, and takes no more output."""
    ours, theirs = pty.openpty()
    settings = [*TINY, *TINY_DECODER, "train.train_iter=100000", f"train.output_dir={tmp_path}"]
    settings += [f"dataloader.train.dataset.0.root={image_folder}"]
    run = subprocess.Popen(
        train_command("quickstart_pretraining.py", *settings, ranks=2),
        cwd=ROOT,
        env=environment(),
        stdin=theirs,
        stdout=theirs,
        stderr=theirs,
        start_new_session=True,
        preexec_fn=lambda: fcntl.ioctl(0, termios.TIOCSCTTY, 0),
    )
    try:
        os.close(theirs)
        path = tmp_path / "metrics.json"
        deadline = time.monotonic() + 100
        while not (path.exists() and len(path.read_text().splitlines()) > 3):
            assert run.poll() is None and time.monotonic() < deadline
            if select.select([ours], [], [], 0.1)[0]:
                os.read(ours, 1 << 16)
        os.close(ours)
        assert run.wait(60) == 0
    finally:
        run.kill()
    done = checkpoint_iteration(tmp_path)
    assert metrics(tmp_path)[-1]["iteration"] == done
    assert f"Stopped after iteration {done} of 100000 (SIGHUP)" in (tmp_path / "log.txt").read_text()
