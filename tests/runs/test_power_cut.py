"""A power cut at any instant of a run leaves a folder that is gone on from, with nothing lost.

What the runs did to their folders is recorded, and what a file system may have left of them is
drawn after each call: see tests/support/power_cut.py.
"""
import json
import os
import random
import shutil
import tempfile

import pytest

from projects.MAE.checkpoint.names import CARD, NUMBERED, iteration_of
from projects.MAE.checkpoint.run_folder import BEST, LEFTOVER, REPLACED, TAG, checkpoint_to_resume
from projects.MAE.errors import UserError
from projects.MAE.utils.disk import check_writable
from tests.support.command import TINY, TINY_DECODER, run_program, train_command
from tests.support.needs import needs_cc
from tests.support.power_cut import (
    Disk,
    Pool,
    build_recorder,
    read_log,
    read_tree,
    recording,
    write_tree,
)

pytestmark = needs_cc

SHARE = 0.2  # of what happens within a checkpoint, which is very much, that is followed by a cut
RUN = "new/run"  # below the recorded folder; neither is there when the first run starts
SETTINGS = {
    "quickstart_pretraining.py": TINY_DECODER,
    "quickstart_finetune.py": ["finetune.enable=False", "model.num_classes=3"],
}
OFTEN = [
    "train.checkpointer.period=1",
    "train.checkpointer.max_to_keep=1",
    "train.evaluation.eval_after_n_epoch=null",
    "train.evaluation.eval_period=1",
]


@pytest.fixture(scope="module")
def recorder(tmp_path_factory):
    return build_recorder(tmp_path_factory.mktemp("recorder"))


@pytest.fixture
def memory():
    """A folder in memory: a thousand folders of small files are made there in seconds."""
    shared = "/dev/shm"
    with tempfile.TemporaryDirectory(dir=shared if os.access(shared, os.W_OK) else None) as folder:
        yield folder


@pytest.fixture
def recorded(recorder, image_folder, monkeypatch):
    """Runs the real command on one rank; returns the `Record`s of what it did to a folder."""

    def run(folder, config, *arguments):
        log = folder.with_suffix(".log")
        for name, value in recording(recorder, folder, log).items():
            monkeypatch.setenv(name, value)
        settings = [*TINY, *SETTINGS[config], *OFTEN, "model.depth=1", "train.train_iter=3"]
        settings += [f"dataloader.train.dataset.0.root={image_folder}"]
        settings += [f"train.output_dir={folder / RUN}"]
        result = run_program(train_command(config, *settings, *arguments))
        assert result.returncode == 0, result.stdout
        monkeypatch.undo()
        return read_log(log)

    return run


class Saves:
    """What was saved, and which saves have returned, as the log goes on.

    Attributes:
        saved: {iteration: [trees of what was saved then]}.
        last, best: iterations of the newest checkpoint and of the best one whose saves have
            returned, 0 without one.
    """

    def __init__(self, disk, last=0, best=0, saved=None):
        self.disk, self.last, self.best, self.saved = disk, last, best, saved or {}
        self.returning = {}

    def apply(self, record):
        """Go on by a record, on the disk too."""
        if record.call not in ("fsync", "fsynced"):
            # A thread that does something else is done with saving, whatever it has left out.
            for kind, iteration in self.returning.pop(record.thread, {}).items():
                setattr(self, kind, iteration)
        self.disk.apply(record)
        name = os.path.basename(record.second)
        if record.call != "rename":
            return
        if name == TAG:
            iteration = iteration_of(self.disk.tree(record.second).decode())
            self.returning[record.thread] = {"last": iteration}
        elif (name == BEST or NUMBERED.fullmatch(name)) and record.path.endswith(".partial"):
            tree = self.disk.tree(record.second)
            iteration = card_of(tree)["iteration"]
            self.saved.setdefault(iteration, []).append(tree)
            if name == BEST:
                self.returning[record.thread] = {"best": iteration}

    def what_is_lost(self, folder):
        """Go on in a folder that a power cut left; says what is wrong, None if nothing is."""
        try:
            check_writable(folder)
            name = checkpoint_to_resume(folder)
        except UserError as error:
            return f"error: {error}"
        newest = iteration_of(name) if name else 0
        if newest < (self.last or self.best):
            return f"goes on from {newest}, not {self.last or self.best}"
        if name and read_tree(os.path.join(folder, name)) not in self.saved.get(newest, ()):
            return f"{name} is not what was saved"
        best = os.path.join(folder, BEST)
        if self.best and not os.path.isdir(best):
            return f"{BEST} is gone"
        if os.path.isdir(best):
            tree = read_tree(best)
            iteration = card_of(tree)["iteration"]
            if iteration < self.best or tree not in self.saved.get(iteration, ()):
                return f"{BEST} is not what was saved"


def card_of(checkpoint):
    model, card = os.path.split(CARD)
    return json.loads(checkpoint[model][card])


def that_matters(tree, name=""):
    """What a start looks at in a tree, to be compared: of half written and half deleted checkpoints
    nothing but that they are there, of other files nothing."""
    leftover = LEFTOVER.fullmatch(name)
    if leftover and leftover["kind"] != REPLACED:
        return None
    if isinstance(tree, dict):
        parts = ((n, that_matters(part, n)) for n, part in tree.items() if n not in UNREAD)
        return tuple(sorted(parts, key=lambda part: part[0]))
    return tree


UNREAD = {"log.txt", "metrics.json", "tensorboard", "reconstructions", "report.html"}


def check_power_cuts(records, saves, memory, seed):
    """Go on in what a power cut may leave after each record; returns how many states were tried."""
    rng, tried, wrong = random.Random(seed), set(), []
    pool = Pool(tempfile.mkdtemp(dir=memory))
    run = os.path.join(saves.disk.path, RUN)
    for record in records:
        saves.apply(record)
        # What happens to the checkpoints' own names is rare and decides most.
        is_rare = os.path.dirname(record.path) == run
        for _ in range(8 if is_rare else rng.random() < SHARE):
            tree = saves.disk.after_power_cut(rng)
            state = hash(that_matters(tree)), saves.last, saves.best
            if state in tried:
                continue
            tried.add(state)
            folder = os.path.join(memory, "disk")
            write_tree(tree, folder, pool)
            lost = saves.what_is_lost(os.path.join(folder, RUN))
            if lost:
                wrong.append(f"{lost}, cut off after {record.call} {record.path} {record.second}")
            shutil.rmtree(folder)
    assert not wrong, f"{len(wrong)} of {len(tried)} states:\n" + "\n".join(wrong[:20])
    return len(tried)


def test_pretraining(recorded, tmp_path, memory):
    folder = tmp_path / "disk"
    folder.mkdir()
    records = recorded(folder, "quickstart_pretraining.py")
    saves = Saves(Disk(folder))
    tried = check_power_cuts(records, saves, memory, seed=1)
    assert saves.disk.tree() == read_tree(folder)  # the record is complete
    assert tried > 500 and saves.last == 3 and saves.best > 1


def test_finetuning_and_going_on_from_the_best(recorded, tmp_path, memory):
    folder = tmp_path / "disk"
    folder.mkdir()
    records = recorded(folder, "quickstart_finetune.py")
    saves = Saves(Disk(folder))
    tried = check_power_cuts(records, saves, memory, seed=2)
    assert saves.disk.tree() == read_tree(folder)
    assert tried > 250 and saves.last == 3

    # Cut off when there was a best checkpoint and no other.
    saves = Saves(Disk(folder))
    for record in records:
        saves.apply(record)
        if saves.best:
            break
    assert not saves.last
    tree, resumed = saves.disk.tree(), tmp_path / "resumed"
    write_tree(tree, resumed)
    saves = Saves(Disk(resumed, tree), best=1, saved=saves.saved)
    records = recorded(resumed, "quickstart_finetune.py", "--resume")
    tried = check_power_cuts(records, saves, memory, seed=3)
    assert saves.disk.tree() == read_tree(resumed)
    assert tried > 250 and saves.last == 3
