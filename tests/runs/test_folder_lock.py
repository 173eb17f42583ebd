"""Two runs in one output folder: the second is refused, and one that was killed is no obstacle."""
import select
import signal
import socket
import subprocess
import sys

import pytest

from projects.MAE.checkpoint.manifest import check_whole
from projects.MAE.checkpoint.names import find_checkpoint
from projects.MAE.utils.folder_lock import NAME
from tests.support.command import ROOT, TINY, TINY_DECODER, environment, pretrain, train
from tests.support.runs import metrics
from tests.support.started_run import StartedRun, wait_until
from tests.runs.test_bad_input import assert_one_error
from tests.support.without_flock import refuse_flock


def settings(images, folder):
    root = f"dataloader.train.dataset.0.root={images}"
    return [*TINY, *TINY_DECODER, root, f"train.output_dir={folder}"]


def test_a_second_run_is_refused_and_the_first_goes_on(image_folder, tmp_path):
    folder = tmp_path / "run"
    with StartedRun(image_folder, folder, "train.checkpointer.period=5", ranks=2) as run:
        run.wait_for_iterations(6)
        config = (folder / "config.yaml").read_bytes()
        holder = f"process {run.rank_processes()[0]} on {socket.gethostname()}"
        parts = [f"train.output_dir={folder}: it is in use", holder, "name another folder"]
        second = settings(image_folder, folder)
        for ranks, more in [(2, []), (1, ["--resume"])]:
            result = train("quickstart_pretraining.py", *second, *more, ranks=ranks)
            assert_one_error(result, *parts)
        # What only looks at a run may do so while it goes on.
        evaluation = ["--eval-only", f"train.load_weight={folder}"]
        result = train("quickstart_pretraining.py", *second, *evaluation)
        assert result.returncode == 0, result.stdout
        assert (folder / "config.yaml").read_bytes() == config
        seen = len(metrics(folder))
        run.wait_for_iterations(seen + 2)
        run.launcher.send_signal(signal.SIGTERM)
        status, output = run.end()
        assert status == 0, output
    assert [line["iteration"] for line in metrics(folder)] == list(range(1, len(metrics(folder)) + 1))
    check_whole(find_checkpoint(folder))
    assert not (folder / NAME).exists()


def test_a_killed_run_is_resumed_at_once(image_folder, tmp_path):
    folder, workers = tmp_path / "run", ["dataloader.train.num_workers=2"]
    with StartedRun(image_folder, folder, "train.checkpointer.period=1", *workers, ranks=2) as run:
        assert wait_until((folder / "last_checkpoint").exists, 200), run.log.read_text()
        run.kill()
        done = int((folder / "last_checkpoint").read_text().split("_")[1]) + 1
    assert (folder / NAME).exists()
    output = pretrain(image_folder, folder, "--resume", f"train.train_iter={done + 2}", ranks=2)
    assert f"{done} iterations done" in output
    assert not (folder / NAME).exists()


HOLD = """if True:
    import sys
    from projects.MAE.errors import UserError
    from projects.MAE.utils.folder_lock import FolderLock
    try:
        FolderLock(sys.argv[1], float(sys.argv[2]))
        print("held", flush=True)
        sys.stdin.read()
    except UserError as error:
        print(error)
"""


def hold(folder, wait_seconds=0, **options):
    """A process that takes a folder, says so, and keeps it until its input ends."""
    return subprocess.Popen(
        [sys.executable, "-c", HOLD, folder, str(wait_seconds)],
        cwd=ROOT,
        env=environment(),
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        **options,
    )


def test_each_of_many_has_the_folder_alone(tmp_path):
    for _ in range(3):
        with hold(tmp_path) as first:
            assert first.stdout.readline() == "held\n"
            with hold(tmp_path) as second:
                said = second.stdout.read()
            assert f"in use by a run that is still going on (process {first.pid} on" in said
        assert first.returncode == 0 and not list(tmp_path.iterdir())


@pytest.mark.parametrize("end", ["end", "kill"])
def test_who_waits_gets_a_folder_that_becomes_free(tmp_path, end):
    with hold(tmp_path) as first:
        assert first.stdout.readline() == "held\n"
        with hold(tmp_path, wait_seconds=60) as second:
            assert not select.select([second.stdout], [], [], 1)[0]
            first.stdin.close() if end == "end" else first.kill()
            assert second.stdout.readline() == "held\n"
            assert (tmp_path / NAME).read_text().startswith(f"process {second.pid} on ")


def test_a_file_system_without_locks_is_warned_of_once(tmp_path):
    with hold(tmp_path, preexec_fn=refuse_flock) as first:
        warning = first.stdout.readline()
        assert f"{tmp_path / NAME} can't be locked on this file system (No locks available)" in warning
        assert first.stdout.readline() == "held\n"
        with hold(tmp_path, preexec_fn=refuse_flock) as second:
            assert "can't be locked" in second.stdout.readline()
            assert second.stdout.readline() == "held\n"
    assert not list(tmp_path.iterdir())
