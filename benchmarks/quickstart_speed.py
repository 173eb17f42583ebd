"""The quickstart's pretraining, images a second, beside an earlier revision of this project.

Both run as a user runs them, loader and hooks included, a run of one after a run of the other. The
earlier revision is checked out into a temporary folder.
"""
import contextlib
import json
import os
import statistics
import subprocess
import sys
import tempfile

from benchmarks import machine
from benchmarks.results import spread

CONFIG = "projects/MAE/configs/quickstart_pretraining.py"
ITERATIONS, PERIOD = 60, 10  # of a run; of a line of its metrics.json
ROUNDS = 3
AT_LEAST, GOAL = 2.0, 4.0


class QuickstartFailed(Exception):
    """A run or git failed."""


def measure(revision, ranks):
    """A row of the results, with the earlier revision as the peer."""
    python = project_python()
    speeds = {"ours": [], revision: []}
    with tempfile.TemporaryDirectory() as folder, checkout(revision, folder) as earlier:
        data = os.path.join(folder, "digits")
        run([python, "-m", "projects.MAE.digits", data], machine.ROOT, python)
        for i in range(ROUNDS):
            for name, root in (("ours", machine.ROOT), (revision, earlier)):
                output = os.path.join(folder, f"{name}-{i}")
                speeds[name].append(images_per_second(root, ranks, data, output, python))
                print(f"  quickstart, {name}: {speeds[name][-1]:.1f} images/s", file=sys.stderr)
    ratio = statistics.median(speeds["ours"]) / statistics.median(speeds[revision])
    rounds = [a / b for a, b in zip(speeds["ours"], speeds[revision])]
    return dict(
        work="quickstart",
        batch=64,
        ranks=ranks,
        peer=revision,
        ratios={revision: dict(speed=round(ratio, 3), speed_of_rounds=spread(rounds))},
        at_least=AT_LEAST,
        goal=GOAL,
        sides={
            name: dict(images_per_second=round(statistics.median(s), 1), all_images_per_second=s)
            for name, s in speeds.items()
        },
        **machine.facts(),
    )


def images_per_second(root, ranks, data, output, python):
    """The median of the lines of a short run's metrics.json, the first iteration not counted."""
    command = [
        "bash",
        "tools/train.sh",
        "projects/MAE/train_net.py",
        CONFIG,
        str(ranks),
        "train.device=cpu",
        f"dataloader.train.dataset.0.root={data}",
        f"train.output_dir={output}",
        "train.evaluation.enabled=False",
        "train.train_epoch=0",
        f"train.train_iter={ITERATIONS}",
        f"train.log_period={PERIOD}",
    ]
    run(command, root, python)
    with open(os.path.join(output, "metrics.json")) as file:
        lines = [json.loads(line) for line in file]
    return statistics.median(line["samples_per_second"] for line in lines[1:])


@contextlib.contextmanager
def checkout(revision, folder):
    """Check a revision out below a folder for as long as the context lasts."""
    path, git = os.path.join(folder, "earlier"), ["git", "-C", machine.ROOT]
    run(git + ["worktree", "add", "--detach", path, revision], machine.ROOT)
    try:
        yield path
    finally:
        subprocess.run(git + ["worktree", "remove", "--force", path], check=True)


def project_python():
    """The Python that tools/train.sh uses here, so that both revisions share one environment."""
    script = 'source tools/common.sh && find_python >&2 && echo "$python"'
    return run(["bash", "-c", script], machine.ROOT).strip()


def run(command, folder, python=None):
    """Run a command in a checkout; returns what it prints.

    Raises:
        QuickstartFailed: it fails; the message ends with its output.
    """
    environment = dict(os.environ, PYTHONPATH=folder)
    if python:
        environment["MAE_PYTHON"] = python
    done = subprocess.run(command, cwd=folder, env=environment, capture_output=True, text=True)
    if done.returncode:
        tail = "\n".join((done.stdout + done.stderr).splitlines()[-15:])
        raise QuickstartFailed(f"{' '.join(command)} failed:\n{tail}")
    return done.stdout
