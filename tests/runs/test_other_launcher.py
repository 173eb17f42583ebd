"""Stopping a run that LiBai's own launcher has started, which ends as soon as it is signalled."""
import signal
import socket
import subprocess
import sys

import pytest

from projects.MAE.checkpoint.manifest import check_whole
from projects.MAE.checkpoint.names import find_checkpoint
from tests.support.command import CONFIGS, ROOT, TINY, TINY_DECODER, environment, pretrain
from tests.support.runs import metrics
from tests.support.started_run import StartedRun, wait_until


def free_port():
    with socket.create_server(("127.0.0.1", 0)) as server:
        return server.getsockname()[1]


class LaunchedByLiBai(StartedRun):
    """A run of two ranks as LiBai's tools/train.sh starts it; `launcher` is OneFlow's."""

    def __init__(self, data, folder):
        self.folder, self.marker, self.log = folder, f"train.output_dir={folder}", folder / "output"
        folder.mkdir(exist_ok=True)
        command = [sys.executable, "-m", "oneflow.distributed.launch", "--nproc_per_node", "2"]
        command += ["--master_port", str(free_port()), "projects/MAE/train_net.py"]
        command += ["--config-file", f"{CONFIGS}/quickstart_pretraining.py", *TINY, *TINY_DECODER]
        command += [self.marker, f"dataloader.train.dataset.0.root={data}", "train.train_iter=100000"]
        with open(self.log, "w") as log:
            self.launcher = subprocess.Popen(
                command,
                cwd=ROOT,
                env=environment() | {"STARTED_BY": self.marker, "CUDA_VISIBLE_DEVICES": ""},
                stdout=log,
                stderr=subprocess.STDOUT,
                start_new_session=True,
            )

    def rank_processes(self):
        return sorted(set(super().rank_processes()) - {self.launcher.pid})


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGKILL])
def test_the_ranks_save_when_their_launcher_ends(image_folder, tmp_path, number):
    folder = tmp_path / "run"
    with LaunchedByLiBai(image_folder, folder) as run:
        run.wait_for_iterations(3)
        run.launcher.send_signal(number)
        assert run.launcher.wait(60) != 0
        assert wait_until(lambda: not run.processes(), 60)
    output = run.log.read_text()
    done = metrics(folder)[-1]["iteration"]
    assert f"Stopped after iteration {done} of 100000" in output and "Traceback" not in output, output
    check_whole(find_checkpoint(folder))
    if number == signal.SIGTERM:
        pretrain(image_folder, folder, "--resume", f"train.train_iter={done + 1}", ranks=2)


def test_nothing_is_left_of_a_launcher_killed_before_the_first_step(image_folder, tmp_path):
    with LaunchedByLiBai(image_folder, tmp_path) as run:
        assert wait_until(lambda: "cpu ranks" in run.log.read_text(), 100)
        run.launcher.kill()
        run.launcher.wait(60)
        assert wait_until(lambda: not run.processes(), 60), run.log.read_text()


def test_a_rank_that_hangs_without_its_launcher_ends_itself():
    code = """if True:
        import os, signal, time
        from projects.MAE.utils import signals
        signals.ORPHAN_SECONDS = 1
        listener = signals.Listener()
        listener.start()
        os.kill(os.getpid(), signals.signal_of_launchers_end())
        while True:
            time.sleep(0.1)
            print(listener.stop, flush=True)
    """
    alone = {name: value for name, value in environment().items() if name != "MAE_COMMAND"}
    command = [sys.executable, "-c", code]
    result = subprocess.run(command, cwd=ROOT, env=alone, stdout=subprocess.PIPE, text=True, timeout=60)
    assert result.returncode == 1 and "the launcher's end\n" in result.stdout
