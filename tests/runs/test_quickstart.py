"""The quickstart checks its arguments first, and never deletes what an earlier one has left."""
import contextlib
import fcntl
import os
import shutil
import signal
import subprocess

import pytest

from tests.support.command import ROOT, environment
from tests.support.started_run import processes_of, wait_until


@pytest.fixture(scope="module")
def checkout(tmp_path_factory):
    """A copy of what the quickstart needs, for its output."""
    folder = tmp_path_factory.mktemp("checkout")
    for name in ("projects", "tools"):
        shutil.copytree(ROOT / name, folder / name)
    return folder


@pytest.fixture
def earlier(checkout):
    """The results of an earlier quickstart."""
    output = checkout / "output"
    for folder in output.glob("quickstart*"):
        shutil.rmtree(folder)
    result = output / "quickstart" / "summary.json"
    result.parent.mkdir(parents=True)
    result.write_text("{}")
    return result


def command(checkout, *arguments):
    return ["bash", str(checkout / "tools/quickstart.sh"), *arguments]


WRONG = [
    (["model.depht=3"], "unknown key model.depht", "did you mean model.depth?"),
    (["0"], "N=0 is not a number of ranks", "--help"),
    (["two"], "N=two is not a number of ranks", "--help"),
    (["1", "--resum"], "'--resum' is not key=value", "--help"),
    (["1", "2"], "'2' is not key=value", "--help"),
    (["1", "train.device=gpu"], "train.device=gpu", "auto, cuda or cpu"),
    (["1", "train.knn.k=0"], "train.knn.k=0", "at least 1"),
    (["3"], "train.global_batch_size=64", "3 data-parallel ranks"),
    (["1", "train.output_dir=/tmp/x"], "train.output_dir=/tmp/x", "has its own train.output_dir"),
    (["1", "train={output_dir:/x}"], "train.output_dir=/x", "has its own train.output_dir"),
    (["1", "finetune.path=x"], "finetune.path=x", "has its own finetune.path"),
]


@pytest.mark.parametrize("arguments, parts", [(first, rest) for first, *rest in WRONG])
def test_a_wrong_argument_touches_nothing(checkout, earlier, arguments, parts):
    result = subprocess.run(
        command(checkout, *arguments),
        env=environment(),
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        timeout=100,
    )
    lines = [line for line in result.stdout.splitlines() if "digits" not in line]
    assert result.returncode == 1 and len(lines) == 1, result.stdout
    assert all(part in lines[0] for part in parts), lines[0]
    assert earlier.read_text() == "{}"
    assert not list(checkout.glob("output/quickstart.*"))


def test_two_at_a_time_are_refused(checkout, earlier):
    with open(checkout / "output" / ".quickstart.lock", "w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        result = subprocess.run(
            command(checkout, "1"), env=environment(), stderr=subprocess.PIPE, text=True, timeout=60
        )
    assert result.returncode == 1 and "another quickstart is still running" in result.stderr
    assert earlier.read_text() == "{}"


def test_earlier_results_are_moved_aside_and_a_stop_stops_everything(checkout, earlier):
    (checkout / "output" / "quickstart.1").symlink_to("nowhere")
    log = checkout / "log"
    three_cores = dict(OMP_NUM_THREADS="3", MKL_NUM_THREADS="1")  # as nproc counts them
    with open(log, "w") as file:
        run = subprocess.Popen(
            command(checkout),
            env=environment() | three_cores | {"STARTED_BY": str(checkout)},
            stdout=file,
            stderr=subprocess.STDOUT,
            start_new_session=True,
        )
    try:
        assert wait_until(lambda: "iteration 40/" in log.read_text(), 100), log.read_text()
        os.killpg(run.pid, signal.SIGINT)  # as a terminal does on Ctrl-C
        assert run.wait(60) == 130, log.read_text()
        assert wait_until(lambda: not processes_of(str(checkout)), 30)
    finally:
        while left := processes_of(str(checkout)):
            for pid in left:
                with contextlib.suppress(ProcessLookupError):
                    os.kill(pid, signal.SIGKILL)
        run.wait()
    kept = checkout / "output" / "quickstart.2"
    said = log.read_text()
    assert "2 cpu ranks" in said  # the most that share batches of 64 images evenly
    assert said.count("== ") == 1 and said.splitlines()[-1].endswith(f"kept in output/{kept.name}")
    assert "The quickstart was stopped" in said.splitlines()[-1]
    assert (kept / "summary.json").read_text() == "{}" and not earlier.exists()
