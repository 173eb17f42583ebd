"""A run of the real command in the background, for tests that signal or kill it."""
import contextlib
import os
import signal
import subprocess
import time

from tests.command import CONFIGS, ROOT, TINY, TINY_DECODER, environment
from tests.runs import metrics


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
    """Wait until a function is true; returns whether it is."""
    deadline = time.monotonic() + seconds
    while not condition() and time.monotonic() < deadline:
        time.sleep(0.1)
    return condition()


class StartedRun:
    """A tiny pretraining run of very many iterations, in a session of its own.

    Args:
        data, folder: where the images are, and the output folder.
        arguments: after those of a tiny run.
        ranks: how many.

    Attributes:
        launcher: the Popen of tools/train.sh.
    """

    def __init__(self, data, folder, *arguments, ranks=1):
        self.folder, self.marker, self.ranks = folder, f"train.output_dir={folder}", ranks
        folder.mkdir(exist_ok=True)
        self.log = folder / "output"
        with open(self.log, "a") as log:
            self.launcher = subprocess.Popen(
                ["bash", ROOT / "tools/train.sh", "projects/MAE/train_net.py"]
                + [f"{CONFIGS}/quickstart_pretraining.py", str(ranks), *TINY, *TINY_DECODER]
                + [self.marker, f"dataloader.train.dataset.0.root={data}"]
                + ["train.train_iter=100000", *arguments],
                cwd=ROOT,
                env=environment() | {"STARTED_BY": self.marker},
                stdout=log,
                stderr=subprocess.STDOUT,
                start_new_session=True,
            )

    def __enter__(self):
        return self

    def __exit__(self, *_):
        """End what a failed test leaves behind."""
        while left := self.processes():
            for pid in left:
                with contextlib.suppress(ProcessLookupError):
                    os.kill(pid, signal.SIGKILL)
            time.sleep(0.1)
        self.launcher.wait()

    def processes(self):
        """Ids of all processes of this run that have not ended."""
        return processes_of(self.marker)

    def rank_processes(self):
        """Ids of the ranks, in their order."""
        ranks = set(processes_of("--config-file", "cmdline"))  # the launcher has no such argument
        return sorted(ranks.intersection(processes_of(self.marker, "cmdline")))

    def wait_for_iterations(self, count=1, seconds=200):
        """Return once so many iterations are in metrics.json, or fail."""
        path = self.folder / "metrics.json"
        seen = wait_until(lambda: path.exists() and len(metrics(self.folder)) >= count, seconds)
        assert seen, self.log.read_text()

    def end(self, seconds=100):
        """Wait for the end; returns the exit status and the whole output."""
        status = self.launcher.wait(seconds)
        return status, self.log.read_text()
