"""The benchmark's own arithmetic and turns; no test looks at a time."""
import json
import os
import subprocess
import sys
import time

import pytest

from benchmarks.machine import ROOT
from benchmarks.results import compare, profile_table, side_summary, table, update
from benchmarks.turns import Side, SideFailed, cpu_seconds

WORKER = """
import sys
from benchmarks.turns import Turns
turns = Turns(threads=1)
turns.start()
count = 0
while True:
    command = turns.wait()
    if command != "step":
        sys.exit(f"no such command: {command}")
    block = bytearray(50_000_000)
    block[::4096] = b"x" * len(block[::4096])
    count += 1
    turns.done(count=count)
    del block
"""


def side(tmp_path, code=WORKER):
    environment = dict(os.environ, PYTHONPATH=ROOT)
    return Side("worker", [sys.executable, "-c", code], environment, 1, str(tmp_path))


def assert_stopped(pid):
    for _ in range(100):  # the signal takes a moment
        with open(f"/proc/{pid}/stat") as file:
            if file.read().rsplit(")", 1)[1].split()[0] == "T":
                return
        time.sleep(0.1)
    raise AssertionError("the process runs")


def test_a_side_steps_at_its_turn_and_is_stopped_between(tmp_path):
    with side(tmp_path) as worker:
        assert_stopped(worker.pids[0])
        turns = [worker.turn("step") for _ in range(2)]
        assert [turn["answers"][0]["count"] for turn in turns] == [1, 2]
        assert_stopped(worker.pids[0])
        baseline = worker.hellos[0]["baseline_mb"]
        assert turns[1]["answers"][0]["peak_mb"] >= baseline + 45
        assert cpu_seconds(worker.pids[0]) > 0
    assert worker.process.poll() is not None


def test_a_side_that_ends_is_an_error_with_its_output(tmp_path):
    with side(tmp_path) as worker, pytest.raises(SideFailed, match="no such command: jump"):
        worker.turn("jump")
    other = tmp_path / "other"
    other.mkdir()
    with pytest.raises(SideFailed, match="status 3"):
        side(other, "import sys; sys.exit(3)")


def turn(seconds, cpu, peaks):
    answers = [dict(peak_mb=peak) for peak in peaks]
    return dict(seconds=seconds, cpu_seconds=cpu, others_cores=0.0, answers=answers)


def row():
    ours = [turn(2.0, 4.0, [100, 110]), turn(4.0, 6.0, [120, 100]), turn(2.5, 5.0, [1, 1])]
    peer = [turn(3.0, 6.0, [110]), turn(5.0, 9.0, [200]), turn(5.0, 9.0, [1])]
    hellos = [dict(pid=1, baseline_mb=10.0, threads=1)]
    sides = {
        "ours": side_summary(ours, hellos * 2, 16),
        "pytorch": side_summary(peer, hellos, 16),
    }
    ratios = {"pytorch": compare(sides, "pytorch")}
    return dict(
        work="pretrain", batch=16, ranks=2, peer="pytorch", ratios=ratios, at_least=1.0, goal=1.2,
        most_memory=1.3, sides=sides,
    )


def test_ratios_are_of_medians_and_of_memory_summed_over_ranks():
    found = row()
    assert found["sides"]["ours"]["images_per_second"] == 6.4
    assert found["sides"]["ours"]["peak_mb"] == 220 and found["sides"]["ours"]["baseline_mb"] == 20
    ratios = found["ratios"]["pytorch"]
    assert ratios["speed"] == 2.0 and ratios["cpu"] == 1.8 and ratios["memory"] == 1.1
    assert ratios["speed_of_rounds"] == dict(median=1.5, smallest=1.25, largest=2.0)


def test_a_row_replaces_its_older_self(tmp_path):
    path = tmp_path / "results.json"
    failed = dict(work="pretrain", batch=64, ranks=2, error="it ended")
    update(path, [row(), failed])
    update(path, [dict(row(), batch=64)])
    rows = json.loads(path.read_text())
    assert [(r["batch"], "error" in r) for r in rows] == [(16, False), (64, False)]


def test_tables():
    lines = table([row(), dict(work="pretrain", batch=64, ranks=2, error="it ended")]).splitlines()
    assert len({line.count("|") for line in lines}) == 1
    assert "**2.00** (1.25 to 2.00)" in lines[2] and "it ended" in lines[3]
    profile = profile_table("ours", [["matmul", 0.9, 10], ["gelu", 0.099, 4], ["add", 0.001, 1]])
    assert "| matmul | 90.0% | 900.0 | 10 |" in profile and "| 1 others | 0.1%" in profile


def test_help_names_examples():
    script = os.path.join(ROOT, "benchmarks", "train_step.py")
    done = subprocess.run([sys.executable, script, "--help"], stdout=subprocess.PIPE, text=True)
    assert done.returncode == 0 and "--work pretrain --batch 16" in done.stdout
