"""Kills a run at random instants, resumes it each time, and compares it with one left alone.

An instant is a random iteration and some milliseconds into it, or into the next save after it, or a
random moment of the start, so that the same seed finds the same places on a slow machine and on a
fast one.
"""
import contextlib
import json
import random
import time

import numpy as np

from projects.MAE.checkpoint.names import find_checkpoint
from projects.MAE.checkpoint.reader import read_weights
from tests.support.started_run import StartedRun

PERIOD = 3  # iterations from one checkpoint to the next
STARTS = 0.2  # share of kills while the run starts
SAVES = 0.4  # share of the others that wait for a save to begin
START_SECONDS = 6
STEP_SECONDS = 0.1
SAVE_SECONDS = 0.04
SLOWEST = 600  # seconds a start may take, on the busiest machine

JOBS = {
    "pretraining": ("quickstart_pretraining.py", []),
    # Drop path, mixup, cutmix, RandAugment and random erasing are this recipe's.
    "finetuning": (
        "mae_finetune.py",
        [
            "finetune.enable=False",
            "model.img_size=32",
            "model.patch_size=8",
            "model.drop_path_rate=0.2",
            "model.depth=2",  # the first block is never dropped
            "dataloader.train.num_workers=1",
            "dataloader.test.0.num_workers=1",
            "train.num_accumulation_steps=1",
            "train.train_micro_batch_size=null",
        ],
    ),
}


def kill_and_resume(job, ranks, data, folder, kills, seed, settings=(), report=print):
    """Run a job once undisturbed and once with kills.

    Args:
        job: a key of `JOBS`.
        ranks: how many.
        data: the images.
        folder: an empty folder.
        kills: how many.
        seed: of the instants.
        settings: more of them, for both runs.
        report: takes a line of text for each kill.

    Returns:
        dict: `kills` that hit a running run, `during_start` and `resumed_from` (iterations) of
        them, `in_a_save`, how many left a checkpoint half written, and `differing`, the names of
        the tensors that differ at the end: none, if nothing was lost.

    Raises:
        AssertionError: a run that was not killed failed, or the last did not go on from a
            checkpoint.
    """
    rng = random.Random(seed)
    config, own = JOBS[job]
    iterations = 8 * kills
    arguments = [*own, "train.warmup_epoch=0", f"train.train_iter={iterations}"]
    arguments += [f"train.checkpointer.period={PERIOD}", "train.checkpointer.max_to_keep=2"]
    arguments += settings

    def start(name, *more):
        return StartedRun(data, folder / name, *arguments, *more, ranks=ranks, config=config)

    with start("undisturbed") as run:
        _must_end_well(run)
    found = dict(job=job, ranks=ranks, kills=0, during_start=0, in_a_save=0, resumed_from=[])
    targets = sorted(rng.randrange(1, iterations) for _ in range(kills))
    for target in targets:
        early = rng.random() < STARTS
        saving = not early and rng.random() < SAVES
        longest = START_SECONDS if early else SAVE_SECONDS if saving else STEP_SECONDS
        delay = rng.random() * longest
        lines_before = len(_lines(folder / "killed"))
        left_before = _partial(folder / "killed")  # a run killed early has not cleared it away
        with start("killed", "--resume") as run:
            if not early:
                _wait_for_iteration(run, target, lines_before)
            if saving:
                _wait_for_save(run, left_before)
            time.sleep(delay)
            found["kills"] += run.launcher.poll() is None
            found["during_start"] += early
            run.kill()
        half_written = sorted(_partial(folder / "killed") - left_before)
        found["in_a_save"] += bool(half_written)
        resumes_at = _newest_iteration(folder / "killed")
        found["resumed_from"].append(resumes_at)
        where = "while it started" if early else f"at iteration {target}"
        save = f", in the save of {half_written[0][0]}" if half_written else ""
        report(f"killed {where} + {delay * 1000:.0f} ms{save}: it goes on from {resumes_at}")
    assert resumes_at, "every kill was before the first checkpoint: no resuming was tested"
    said_before = len((folder / "killed" / "output").read_text())
    with start("killed", "--resume") as run:
        said = _must_end_well(run)[said_before:]
    # A run from the beginning would end with the same bits.
    assert f"model_{resumes_at - 1:07d}, {resumes_at} iterations done" in said, said
    found["differing"] = differing(folder / "undisturbed", folder / "killed")
    return found


def differing(first, second):
    """Names of the tensors whose bits differ in the newest checkpoints of two folders."""
    ours, theirs = (read_weights(find_checkpoint(folder)) for folder in (first, second))
    names = sorted(set(ours) | set(theirs))
    return [
        name
        for name in names
        if name not in ours
        or name not in theirs
        or not np.array_equal(ours[name].view(np.int32), theirs[name].view(np.int32))
    ]


def _must_end_well(run):
    status, output = run.end(SLOWEST)
    assert status == 0, output
    return output


def _wait_for_iteration(run, target, lines_before):
    """Return once a run has logged an iteration, or has ended by itself."""
    deadline = time.monotonic() + SLOWEST
    while _last_logged(_lines(run.folder)[lines_before:]) < target and run.launcher.poll() is None:
        assert time.monotonic() < deadline, run.log.read_text()
        time.sleep(0.005)
    assert run.launcher.poll() in (None, 0), run.log.read_text()


def _wait_for_save(run, left_before):
    """Return once a run has begun to write a checkpoint, or has ended by itself."""
    deadline = time.monotonic() + SLOWEST
    while not _partial(run.folder) - left_before and run.launcher.poll() is None:
        assert time.monotonic() < deadline, run.log.read_text()
        time.sleep(0.001)


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


def _newest_iteration(folder):
    """Iterations done at the newest checkpoint, 0 without one."""
    tag = folder / "last_checkpoint"
    return int(tag.read_text().split("_")[-1]) + 1 if tag.exists() else 0
