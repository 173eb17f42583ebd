"""A signal that asks to stop, where there is nothing to save: status 128 + signal, one line, nothing left."""
import os
import signal

import pytest

from tests.support.command import ROOT, TINY
from tests.support.started_run import StartedRun, wait_until

SUPPORT = ROOT / "tests" / "support"
TINY_PROBE = [s for s in TINY if not s.startswith("optim.")] + ["model.global_pool=False"]
INT, TERM, HUP = signal.SIGINT, signal.SIGTERM, signal.SIGHUP


def to_launcher(run, number):
    run.launcher.send_signal(number)


def to_a_rank(run, number):
    os.kill(run.rank_processes()[-1], number)


def to_the_group(run, number):
    os.killpg(run.launcher.pid, number)


def has_ranks(run):
    return len(run.rank_processes()) == run.ranks


def says(text):
    return lambda run: text in run.log.read_text()


@pytest.mark.parametrize(
    "arguments, stage, send, number",
    [
        ([], has_ranks, to_launcher, INT),
        ([], says("Compiling"), to_launcher, INT),
        ([], says("Compiling"), to_launcher, HUP),
        (["--eval-only"], says("asleep"), to_a_rank, TERM),
        (["--knn"], says("asleep"), to_the_group, INT),
    ],
)
def test_one_signal(image_folder, pretrained, tmp_path, arguments, stage, send, number):
    options = {}
    if arguments == ["--eval-only"]:
        arguments = [f"train.load_weight={pretrained}", *arguments]
        options = dict(config=str(SUPPORT / "sleeping_pretraining.py"))
    if arguments == ["--knn"]:
        arguments = [f"finetune.path={pretrained}", *arguments]
        options = dict(config=str(SUPPORT / "sleeping_probe.py"), tiny=TINY_PROBE)
    with StartedRun(image_folder, tmp_path, *arguments, ranks=2, **options) as run:
        assert wait_until(lambda: stage(run) or run.launcher.poll() is not None, 100)
        send(run, number)
        status, output = run.end(30)
        assert wait_until(lambda: not run.processes(), 30), run.processes()
    assert status == 128 + number, output
    said = [line for line in output.splitlines() if "ended by SIG" in line or "died of signal" in line]
    assert len(said) == 1 and number.name[3:] in said[0], output
    assert "Traceback" not in output and "Stack trace" not in output, output
