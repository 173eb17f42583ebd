"""A run in which no rank makes progress ends, and says where each rank is."""
import os
import re
import signal
import subprocess
import sys

from tests.support.command import ROOT
from tests.support.started_run import StartedRun, wait_until

SLEEPING = str(ROOT / "tests" / "support" / "sleeping_pretraining.py")
SECONDS = 25  # more than compiling takes on a busy machine
SETTINGS = [f"train.timeout_seconds={SECONDS}", "dataloader.train.num_workers=0"]
SETTINGS += ["train.visualize.after_n_epoch=null"]  # the validation data hangs, too


def ranks_told(run):
    """Where the ranks are, by rank, as the run tells it when it has ended by itself."""
    status, output = run.end(SECONDS + 60)
    assert wait_until(lambda: not run.processes(), 30), run.processes()
    assert status == 1 and "Traceback" not in output, output
    (line,) = [line for line in output.splitlines() if line.startswith("error: ")]
    assert f"no rank on this machine has made progress for train.timeout_seconds={SECONDS} " in line
    return dict(re.findall(r"^  rank (\d): (.*)$", output, re.M))


def test_a_sample_that_never_comes(image_folder, tmp_path):
    with StartedRun(image_folder, tmp_path, *SETTINGS, ranks=2, config=SLEEPING) as run:
        told = ranks_told(run)
    assert set(told) == {"0", "1"}
    (asleep,) = [rank for rank, where in told.items() if "sleep_for_ever" in where]
    assert told[asleep].startswith("sleep_for_ever (tests/support/sleeping.py:")
    waits = told["1" if asleep == "0" else "0"]
    assert "after_loss (projects/MAE/engine/stopping.py:" in waits, waits


def test_a_rank_that_is_stopped(image_folder, tmp_path):
    with StartedRun(image_folder, tmp_path, *SETTINGS, ranks=2) as run:
        run.wait_for_iterations(3)
        os.kill(run.rank_processes()[1], signal.SIGSTOP)
        told = ranks_told(run)
    assert "no answer: it is stopped" in told["1"] and "run_step" in told["0"]
    assert wait_until(lambda: not run.processes(), 30)


def test_without_a_limit_nothing_ends(image_folder, tmp_path):
    with StartedRun(image_folder, tmp_path, "train.timeout_seconds=0") as run:
        run.wait_for_iterations(3)
        os.kill(run.rank_processes()[0], signal.SIGSTOP)
        assert not wait_until(lambda: run.launcher.poll() is not None, 10)


def test_under_another_launcher_a_rank_ends_by_itself():
    program = (
        "import time\n"
        "from projects.MAE.runtime.watchdog import watch\n"
        "def hang():\n    time.sleep(60)\n"
        "watch(1)\nhang()\n"
    )
    env = {name: value for name, value in os.environ.items() if name != "MAE_PROGRESS"}
    command = [sys.executable, "-c", program]
    result = subprocess.run(command, cwd=ROOT, env=env, capture_output=True, text=True, timeout=30)
    assert result.returncode == 1 and "in hang" in result.stderr
