"""An error that one rank meets in the middle of a run ends all of them: one line, status 1."""
import os
import shutil
import signal
import subprocess
import sys
import time

import pytest

from tests.support.command import ROOT, TINY
from tests.support.loaders import fork_servers_of, workers_of
from tests.support.started_run import StartedRun, wait_until

STAGES = "tests/support/failing_at.py"
TINY_PROBE = [s for s in TINY if not s.startswith("optim.")] + ["model.global_pool=False"]
FAILING = str(ROOT / "tests" / "support" / "failing_pretraining.py")
SECONDS = 30  # from the error to the end of the last process


def assert_ends(run, *parts):
    """The run ends within SECONDS with one line of error that has these parts, and leaves nothing."""
    gone = time.monotonic() + SECONDS
    status, output = run.end(SECONDS)
    assert wait_until(lambda: not run.processes(), gone - time.monotonic()), run.processes()
    errors = [line for line in output.splitlines() if "error" in line.lower()]
    assert status == 1 and len(errors) == 1, output
    assert errors[0].startswith("error: ") and "Traceback" not in output, output
    assert "leaked" not in output and "died of" not in output, output
    for part in parts:
        assert part in errors[0], errors[0]


@pytest.fixture
def images(image_folder, tmp_path):
    """A copy of the images that a test may break."""
    return shutil.copytree(image_folder, tmp_path / "images")


def test_a_loader_worker_is_killed(images, tmp_path):
    with StartedRun(images, tmp_path / "run", ranks=2) as run:
        run.wait_for_iterations(3)
        os.kill(workers_of(run.marker)[0], signal.SIGKILL)
        assert_ends(run, "a process that reads images died", "--resume")


def test_the_server_of_loader_workers_is_killed(images, tmp_path):
    with StartedRun(images, tmp_path / "run", ranks=2) as run:
        run.wait_for_iterations(3)
        os.kill(fork_servers_of(run.marker)[0], signal.SIGKILL)
        assert_ends(run, "a process that reads images died", "--resume")


def test_an_image_is_deleted(images, tmp_path):
    with StartedRun(images, tmp_path / "run", "dataloader.train.num_workers=0", ranks=2) as run:
        run.wait_for_iterations(3)
        victim = images / "train" / "class1" / "3.jpg"
        victim.unlink()
        assert_ends(run, str(victim), "no such file", "data.on_error=skip")


def test_a_data_set_raises_an_exception(images, tmp_path):
    with StartedRun(images, tmp_path / "run", ranks=2, config=FAILING) as run:
        run.wait_for_iterations()
        assert_ends(run, "sample 7 of", "ValueError: the label is no number", "MAE_TRACEBACK=1")


@pytest.mark.parametrize("kind", ["tensor", "pipeline"])
def test_ranks_that_share_a_sample_say_it_once(images, tmp_path, kind):
    setting = f"train.dist.{kind}_parallel_size=2"
    with StartedRun(images, tmp_path / "run", setting, ranks=2, config=FAILING) as run:
        run.wait_for_iterations()
        assert_ends(run, "sample 7 of", "ValueError: the label is no number")


TENSOR, PIPELINE = ("train.dist.%s_parallel_size=2" % kind for kind in ("tensor", "pipeline"))


@pytest.mark.parametrize(
    "stage, rank, ranks, settings",
    [
        ("before the first exchange", 1, 2, []),
        ("compiling", 1, 2, [TENSOR]),
        ("between steps", 3, 4, [TENSOR, PIPELINE]),
        ("evaluation", 0, 2, [TENSOR, "train.evaluation.eval_period=2"]),
        ("evaluation", 1, 2, ["train.load_weight={}", "--eval-only"]),
        ("saving", 1, 2, [PIPELINE, "train.checkpointer.period=2"]),
        ("k-NN", 1, 2, ["finetune.path={}", "--knn"]),
        ("at the end", 1, 2, ["train.train_iter=3"]),
    ],
)
def test_an_exception_at_any_stage(image_folder, pretrained, tmp_path, stage, rank, ranks, settings):
    """A defect: its traceback is shown, once."""
    options = dict(file=STAGES, ranks=ranks, variables={"FAIL_AT": f"{stage} {rank}"})
    if stage == "k-NN":
        options.update(config="quickstart_linprobe.py", tiny=TINY_PROBE)
    settings = [setting.format(pretrained) for setting in settings]
    with StartedRun(image_folder, tmp_path, *settings, **options) as run:
        assert wait_until(lambda: "an error on rank" in run.log.read_text(), 100), run.log.read_text()
        gone = time.monotonic() + SECONDS
        status, output = run.end(SECONDS)
        assert wait_until(lambda: not run.processes(), gone - time.monotonic()), run.processes()
    assert status == 1, output
    assert output.count("Traceback") == output.count(f"RuntimeError: an error on rank {rank}") == 1, output
    assert "stack trace" not in output.lower() and "died of" not in output, output


def test_nobody_reads_what_is_said(images, tmp_path):
    reader, writer = os.pipe()
    with StartedRun(images, tmp_path / "run", ranks=2, config=FAILING, log=f"/dev/fd/{writer}") as run:
        os.close(writer)
        with open(reader) as lines:  # as `| head -1` does
            assert lines.readline()
        assert wait_until(lambda: not run.processes(), 100), run.processes()
        assert run.launcher.wait(SECONDS) != 0
    assert (tmp_path / "run" / "log.txt").exists()  # it had begun


def test_the_output_folder_is_deleted(images, tmp_path):
    settings = ["train.checkpointer.period=5"]
    with StartedRun(images, tmp_path / "run", *settings, ranks=2, log=tmp_path / "log") as run:
        run.wait_for_iterations(3)
        shutil.rmtree(tmp_path / "run", ignore_errors=True)
        assert_ends(run, "train.output_dir")


def test_nothing_is_freed_on_the_way_out():
    code = """if True:
        import time
        from projects.MAE.engine.process import run_rank

        class Graph:
            def __del__(self):
                time.sleep(600)  # as a graph's destructor waits for the other ranks

        def main(argv):
            graph = Graph()
            raise ValueError("an error")

        run_rank(main, [])
    """
    result = subprocess.run(
        [sys.executable, "-c", code], cwd=ROOT, stderr=subprocess.PIPE, text=True, timeout=SECONDS
    )
    assert result.returncode == 1 and result.stderr.endswith("ValueError: an error\n")
