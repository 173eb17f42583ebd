"""Kills a run at random instants, goes on with it each time, and compares it with one left alone.

An instant is a random iteration and some milliseconds into it, or into the next save after it, or a
random moment of the start, so that the same seed finds the same places on a slow machine and on a
fast one. What is killed is everything, or one rank, or one worker that reads images: then the
others have to end by themselves.
"""
import contextlib
import json
import os
import random
import signal
import subprocess
import sys
import time
from pathlib import Path

from projects.MAE.checkpoint.names import find_checkpoint
from tests.support.command import ROOT, TINY, TINY_DECODER, environment
from tests.support.loaders import workers_of
from tests.support.started_run import StartedRun, wait_until

PERIOD = 3  # iterations from one checkpoint to the next
STEPS = 8  # iterations from one kill to the next, on the average
STARTS = 0.2  # share of kills while the run starts
SAVES = 0.4  # share of the others that wait for a save to begin
START_SECONDS = 6
STEP_SECONDS = 0.1
SAVE_SECONDS = 0.04
SLOWEST = 600  # seconds a start may take, on the busiest machine
GIVEN_UP = 120  # seconds after a kill at which what has not ended is killed, too

EVERYTHING, RANK, WORKER = "everything", "a rank", "a worker"
EXTRACTION = "extraction"
TINY_PROBE = [setting for setting in TINY if not setting.startswith("optim.")]
# {task: (configuration, settings of a tiny run, more of them)}
TASKS = {
    "pretraining": ("quickstart_pretraining.py", TINY + TINY_DECODER, []),
    # Drop path, mixup, cutmix, RandAugment and random erasing are this recipe's.
    "finetuning": (
        "mae_finetune.py",
        TINY,
        [
            "finetune.enable=False",
            "model.img_size=32",
            "model.patch_size=8",
            "model.drop_path_rate=0.2",
            "model.depth=2",  # the first block is never dropped
            "train.num_accumulation_steps=1",
            "train.train_micro_batch_size=null",
        ],
    ),
    "probing": ("quickstart_linprobe.py", TINY_PROBE, ["finetune.enable=False", "model.depth=2"]),
}
LAYOUTS = {
    "data": [],
    "tensor": ["train.dist.tensor_parallel_size=2"],
    "pipeline": ["train.dist.pipeline_parallel_size=2"],
}


class Training:
    """A training run that is killed.

    Args:
        task, ranks, layout: a key of `TASKS`, how many, a key of `LAYOUTS`.
        data: the images.
        folder: an empty folder.
        kills: how many are to come.
        settings: more of them.
    """

    def __init__(self, task, ranks, layout, data, folder, kills, settings=()):
        self.data, self.folder, self.ranks = data, folder, ranks
        self.config, self.tiny, own = TASKS[task]
        self.arguments = [
            *own,
            *LAYOUTS[layout],
            "train.warmup_epoch=0",
            f"train.train_iter={STEPS * kills}",
            f"train.checkpointer.period={PERIOD}",
            "train.checkpointer.max_to_keep=2",
            "dataloader.train.num_workers=1",
            "dataloader.test.0.num_workers=1",
            *settings,
        ]

    def start(self, name):
        """A `StartedRun` that goes on in the folder of this name."""
        folder = self.folder / name
        options = dict(ranks=self.ranks, config=self.config, tiny=self.tiny)
        self.seen = len(_lines(folder)), _partial(folder)
        return StartedRun(self.data, folder, *self.arguments, "--resume", **options)

    def wait(self, run, place, rng):
        """Return at a random instant of its own part of the run, in words."""
        target = STEPS * place + 1 + rng.randrange(STEPS)
        saves, delay = rng.random() < SAVES, rng.random()
        lines_before, left_before = self.seen
        _wait(run, lambda: _last_logged(_lines(run.folder)[lines_before:]) >= target, 0.005)
        if saves:
            _wait(run, lambda: _partial(run.folder) - left_before, 0.001)
        time.sleep(delay * (SAVE_SECONDS if saves else STEP_SECONDS))
        return f"at iteration {target}{' in a save' if saves else ''}"

    def goes_on_from(self):
        """Iterations done at the newest checkpoint, 0 without one."""
        tag = self.folder / "killed" / "last_checkpoint"
        return int(tag.read_text().split("_")[-1]) + 1 if tag.exists() else 0

    def went_on(self, said):
        """Whether the last start has said that it went on: from the beginning the end is the same,
        too."""
        return "Resumed from" in said

    def differing(self):
        """Names of the files of tensors, weights and state, whose bytes differ at the end."""
        return differing(self.folder / "undisturbed", self.folder / "killed")


class StartedExtraction(StartedRun):
    """The command extract_features in the background, in a session of its own."""

    def __init__(self, weights, images, folder):
        self.folder, self.marker, self.ranks = folder, f"out={folder}", 1
        self.log = folder / "output"
        folder.mkdir(exist_ok=True)
        options = ["--weights", weights, "--images", images, "--out", folder / "out.npz"]
        options += ["--batch-size", "4", "--num-workers", "1"]
        with open(self.log, "a") as log:
            self.launcher = subprocess.Popen(
                [sys.executable, "-m", "projects.MAE.extract_features", *map(str, options)],
                cwd=ROOT,
                env=environment() | {"STARTED_BY": self.marker},
                stdout=log,
                stderr=subprocess.STDOUT,
                start_new_session=True,
            )

    def rank_processes(self):
        return [self.launcher.pid]


class Extraction:
    """`Training`, of the command extract_features: the features of a tiny encoder."""

    def __init__(self, data, folder, kills):
        self.images, self.weights = data / "train", folder / "w"
        self.folder, self.kills = folder, kills
        count = sum(path.is_file() for path in self.images.rglob("*"))
        self.bytes = count * 4 * 32  # of the features, as they are written while the command runs
        encoder = StartedRun(data, self.weights, "train.train_iter=1")
        _must_end_well(encoder)

    def start(self, name):
        return StartedExtraction(self.weights, self.images, self.folder / name)

    def wait(self, run, place, rng):
        share, delay = (place + rng.random()) / self.kills, rng.random()
        partial = run.folder / "out.npz.partial"

        def is_there():
            with contextlib.suppress(FileNotFoundError):
                return partial.stat().st_size >= share * self.bytes
            return False

        _wait(run, is_there, 0.001)
        time.sleep(delay * SAVE_SECONDS)
        return f"at {share:.0%} of the features"

    def goes_on_from(self):
        partial = self.folder / "killed" / "out.npz.partial"
        return f"{partial.stat().st_size if partial.exists() else 0} bytes"

    def went_on(self, said):
        return True  # the first of its kills may have been all that there was to lose

    def differing(self):
        files = [self.folder / name / "out.npz" for name in ("undisturbed", "killed")]
        return [] if files[0].read_bytes() == files[1].read_bytes() else ["out.npz"]


def kill_and_resume(
    task, ranks, data, folder, numbers, seed, layout="data", settings=(), report=print
):
    """Run a task once undisturbed and once with kills.

    Args:
        task: a key of `TASKS`, or `EXTRACTION`.
        ranks, layout: how many, and a key of `LAYOUTS`.
        data: the images.
        folder: an empty folder.
        numbers: of the kills; each and the seed tell what is killed when.
        settings: more of them, for both runs.
        report: takes a line of text for each kill.

    Returns:
        dict: how many kills hit a running run, in all (`kills`) and by what was killed; `longest`,
        the seconds from a kill to the end of the last process, at most; and `differing`, what
        differs at the end: nothing, if nothing was lost.

    Raises:
        AssertionError: a run that was not killed failed, or the last did not go on.
    """
    numbers = list(numbers)
    if task == EXTRACTION:
        job = Extraction(data, folder, len(numbers))
    else:
        job = Training(task, ranks, layout, data, folder, len(numbers), settings)
    _must_end_well(job.start("undisturbed"))
    found = {"task": task, "ranks": ranks, "layout": layout, "kills": 0, "longest": 0.0}
    found.update({EVERYTHING: 0, RANK: 0, WORKER: 0})
    for place, number in enumerate(numbers):
        rng = random.Random(f"{seed} {number}")
        victim, early = rng.choice((EVERYTHING, RANK, WORKER)), rng.random() < STARTS
        with job.start("killed") as run:
            if early:
                time.sleep(rng.random() * START_SECONDS)
            where = "while it started" if early else job.wait(run, place, rng)
            if run.launcher.poll() is not None:
                report(f"kill {number}: the run had ended")
                continue
            victim, seconds = _kill(run, victim, rng)
        found["kills"] += 1
        found[victim] += 1
        found["longest"] = max(found["longest"], seconds)
        place_on = job.goes_on_from()
        ended = f"ended after {seconds:.1f} s: it goes on from {place_on}"
        report(f"kill {number}: {victim} {where}, {ended}")
    last = job.start("killed")
    said_before = len(last.log.read_text())
    goes_on = job.goes_on_from()
    said = _must_end_well(last)[said_before:]
    assert not goes_on or job.went_on(said), said
    found["differing"] = job.differing()
    return found


def _kill(run, victim, rng):
    """Kill a victim, or everything where there is none of it; what it was, and the seconds until
    the last process has ended."""
    start, found = time.monotonic(), []
    if victim == RANK:
        found = run.rank_processes()
    elif victim == WORKER:
        found = workers_of(run.marker)
    if found:
        with contextlib.suppress(ProcessLookupError):
            os.kill(rng.choice(found), signal.SIGKILL)
        wait_until(lambda: run.launcher.poll() is not None and not run.processes(), GIVEN_UP)
    else:
        victim = EVERYTHING
    run.kill()
    return victim, time.monotonic() - start


def differing(first, second):
    """Names of the files of tensors that differ in the newest checkpoints of two output folders."""
    ours, theirs = (_tensors(Path(find_checkpoint(folder))) for folder in (first, second))
    return sorted(name for name in {*ours, *theirs} if ours.get(name) != theirs.get(name))


def _tensors(checkpoint):
    """{path in a checkpoint: bytes} of its weights and its optimizer's state."""
    paths = checkpoint.rglob("out")
    return {str(path.relative_to(checkpoint)): path.read_bytes() for path in paths}


def _must_end_well(run):
    with run:
        status, output = run.end(SLOWEST)
    assert status == 0, output
    return output


def _wait(run, condition, pause):
    """Return once a condition is true, or the run has ended by itself, well."""
    deadline = time.monotonic() + SLOWEST
    while not condition() and run.launcher.poll() is None:
        assert time.monotonic() < deadline, run.log.read_text()
        time.sleep(pause)
    assert run.launcher.poll() in (None, 0), run.log.read_text()


def _lines(folder):
    path = folder / "metrics.json"
    return path.read_text().split("\n") if path.exists() else []


def _partial(folder):
    """{(name, when it was written)} of the checkpoints that are half written."""
    found = set()
    for path in folder.glob(".model_*.partial"):
        with contextlib.suppress(FileNotFoundError):  # it is whole by now
            found.add((path.name, path.stat().st_mtime_ns))
    return found


def _last_logged(lines):
    """The last iteration in lines of metrics.json, 0 without one; the last may not be whole yet."""
    for line in reversed(lines):
        try:
            return json.loads(line)["iteration"]
        except ValueError:
            continue
    return 0
