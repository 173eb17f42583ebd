"""A run of the real command in the background, for tests that signal or kill it."""
import contextlib
import os
import re
import signal
import subprocess
import time

from tests.support.command import CONFIGS, ROOT, TINY, TINY_DECODER, WORKERS, environment
from tests.support.runs import metrics


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


def shared_memory_of(processes):
    """Names in /dev/shm that processes have mapped."""
    names = set()
    for pid in processes:
        try:
            with open(f"/proc/{pid}/maps") as file:
                names.update(re.findall(r"/dev/shm/[^\s]+", file.read()))
        except OSError:
            continue  # it ended meanwhile
    return names


def wait_until(condition, seconds):
    """Wait until a function is true; returns whether it is."""
    deadline = time.monotonic() + seconds
    while not condition() and time.monotonic() < deadline:
        time.sleep(0.1)
    return condition()


class StartedRun:
    """A tiny run of very many iterations, in a session of its own.

    Args:
        data, folder: where the images are, and the output folder.
        arguments: after those of a tiny run.
        ranks: how many.
        config: a configuration of projects/MAE/configs, or the path of another.
        tiny: the settings of a tiny run, by default those of pretraining or finetuning.
        log: the file for what it prints; by default `output` in the folder.
        file, variables: what tools/train.sh runs, and more of the environment.

    Attributes:
        launcher: the Popen of tools/train.sh.
    """

    def __init__(
        self,
        data,
        folder,
        *arguments,
        ranks=1,
        config="quickstart_pretraining.py",
        tiny=None,
        log=None,
        file="projects/MAE/train_net.py",
        variables=None,
    ):
        self.folder, self.marker, self.ranks = folder, f"train.output_dir={folder}", ranks
        folder.mkdir(exist_ok=True)
        self.log = log or folder / "output"
        with open(self.log, "a") as log:
            self.launcher = subprocess.Popen(
                ["bash", ROOT / "tools/train.sh", file]
                + [os.path.join(CONFIGS, config), str(ranks)]
                + (tiny or TINY + TINY_DECODER * ("pretraining" in config))
                + WORKERS
                + [self.marker, f"dataloader.train.dataset.0.root={data}"]
                + ["train.train_iter=100000", *arguments],
                cwd=ROOT,
                env=environment() | {"STARTED_BY": self.marker, **(variables or {})},
                stdout=log,
                stderr=subprocess.STDOUT,
                start_new_session=True,
            )

    def __enter__(self):
        return self

    def __exit__(self, *_):
        """End what a failed test leaves behind."""
        self.kill()

    def kill(self):
        """SIGKILL every process of the run, the launcher first, and what they can't clean up."""
        shared = shared_memory_of(self.processes())
        with contextlib.suppress(ProcessLookupError):
            os.kill(self.launcher.pid, signal.SIGKILL)
        while left := self.processes():
            for pid in left:
                with contextlib.suppress(ProcessLookupError):
                    os.kill(pid, signal.SIGKILL)
            time.sleep(0.1)
        self.launcher.wait()
        for name in shared:
            with contextlib.suppress(FileNotFoundError):
                os.remove(name)

    def processes(self):
        """Ids of all processes of this run that have not ended."""
        return processes_of(self.marker)

    def rank_processes(self):
        """Ids of the ranks, in their order."""
        ranks = set(processes_of("--config-file", "cmdline"))  # the launcher has no such argument
        return sorted(ranks.intersection(processes_of(self.marker, "cmdline")))

    def wait_for_iterations(self, count=1, seconds=200):
        """Return once so many iterations are in metrics.json, or fail, at once if the run has ended."""
        path = self.folder / "metrics.json"

        def are_there():
            return path.exists() and len(metrics(self.folder)) >= count

        wait_until(lambda: self.launcher.poll() is not None or are_there(), seconds)
        assert are_there(), self.log.read_text()

    def end(self, seconds=100):
        """Wait for the end; returns the exit status and the whole output."""
        status = self.launcher.wait(seconds)
        return status, self.log.read_text()
