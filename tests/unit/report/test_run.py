"""Reading what runs leave behind, whole or not."""
import json

import pytest

from projects.MAE.errors import UserError
from projects.MAE.report.run import read_run
from tests.support.folders import lines, make_checkpoint, make_run


def test_all_that_a_run_leaves(tmp_path):
    folder = make_run(tmp_path / "run", pictures=2)
    make_checkpoint(folder, "model_0000009", iteration=10)
    make_checkpoint(folder, "model_best", iteration=20, reconstruction_loss=0.25)
    make_checkpoint(folder, ".model_0000019.partial")
    (folder / "model_final").symlink_to("model_best")
    run = read_run(str(folder))
    assert run.kind == "pretraining" and (run.iterations, run.planned) == (20, 20)
    assert run.curves["total_loss"] == [(i, 3.0 / i) for i in range(1, 21)]
    # The first step compiles: its speed is no speed.
    assert run.curves["samples_per_second"] == [(i, 100.0 + i) for i in range(2, 21)]
    assert list(run.evaluations) == ["reconstruction_loss"]
    assert run.best("reconstruction_loss") == (20, 3.0 / 20 + 0.1)
    assert run.epochs(20) == 4.0
    assert run.setting("train.evaluation.size") == 24  # the reference is followed
    assert [c["name"] for c in run.checkpoints] == ["model_0000009", "model_best"]
    assert run.checkpoints[1]["bytes"] > 2_000_000
    assert [path.split("_")[-1] for path in run.pictures] == ["0000000.png", "0000005.png"]
    assert run.restarts == [] and run.damaged == 0


def test_a_resumed_run_shows_what_came_last(tmp_path):
    found = [*lines(1, 12, loss=3.0), *lines(8, 20, loss=6.0)]
    run = read_run(str(make_run(tmp_path / "run", found)))
    assert run.restarts == [8]
    expected = [(i, 3.0 / i) for i in range(1, 8)] + [(i, 6.0 / i) for i in range(8, 21)]
    assert run.curves["total_loss"] == expected
    assert [i for i, _ in run.evaluations["reconstruction_loss"]] == [5, 10, 15, 20]
    assert run.evaluations["reconstruction_loss"][1] == (10, 6.0 / 10 + 0.1)
    assert [i for i, _ in run.curves["samples_per_second"]] == [*range(2, 8), *range(9, 21)]


def test_the_speed_of_a_first_step_is_left_out_after_a_clean_stop(tmp_path):
    found = [*lines(1, 3), *lines(4, 6)]
    found[3]["first_step"] = True
    run = read_run(str(make_run(tmp_path / "run", found)))
    assert [i for i, _ in run.curves["samples_per_second"]] == [2, 3, 5, 6]
    assert len(run.curves["total_loss"]) == 6 and "first_step" not in run.curves
    assert run.restarts == []


def test_a_run_started_anew_in_its_folder_is_the_new_one(tmp_path):
    found = [*lines(1, 15), *lines(1, 3, loss=9.0)]
    run = read_run(str(make_run(tmp_path / "run", found)))
    assert run.restarts == [1] and run.curves["total_loss"] == [(i, 9.0 / i) for i in (1, 2, 3)]
    assert run.evaluations == {}


def test_damaged_lines_are_counted_and_left_out(tmp_path):
    found = [*lines(1, 4), '{"iteration": 5, "total_lo', "null", '"text"', '{"total_loss": 1}', "\x00\x00"]
    found += ['{"iteration": 6, "total_loss": NaN, "lr": 0.1}', "[" * 100_000, *lines(7, 8)]
    run = read_run(str(make_run(tmp_path / "run", found)))
    assert run.damaged == 6
    assert [i for i, _ in run.curves["total_loss"]] == [1, 2, 3, 4, 7, 8]


@pytest.mark.parametrize("name", ["config.yaml", "environment.json"])
@pytest.mark.parametrize(
    "content", [None, b"", b"\xff\xfe{{{", b"[1, 2]", b"a: [!!python/object:os.system {}"]
)
def test_files_that_are_missing_or_damaged(tmp_path, name, content):
    folder = make_run(tmp_path / "run")
    (folder / name).unlink()
    if content is not None:
        (folder / name).write_bytes(content)
    run = read_run(str(folder))
    assert run.iterations == 20 and run.epochs(20) is None
    assert {"config.yaml": run.config, "environment.json": run.environment}[name] == {}


def test_files_that_cannot_be_read(tmp_path):
    folder = make_run(tmp_path / "run")
    (folder / "environment.json").unlink()
    (folder / "environment.json").mkdir()
    assert read_run(str(folder)).environment == {}
    (folder / "metrics.json").unlink()
    (folder / "metrics.json").symlink_to("/proc/self/mem")  # a file, and reading it fails
    run = read_run(str(folder))
    assert run.curves == {} and "leads out of" in run.left_out[0]


def test_a_damaged_card_costs_the_card_alone(tmp_path):
    folder = make_run(tmp_path / "run")
    make_checkpoint(folder, "model_best")
    (folder / "model_best" / "model" / "model_card.json").write_text("{")
    assert [c["card"] for c in read_run(str(folder)).checkpoints] == [{}]


def test_folders_without_a_run(tmp_path):
    (tmp_path / "empty").mkdir()
    for name, said in [("empty", "neither a metrics.json nor"), ("missing", "no such folder")]:
        with pytest.raises(UserError, match=said):
            read_run(str(tmp_path / name))


def test_a_run_that_has_just_begun(tmp_path):
    folder = make_run(tmp_path / "run", [json.dumps({"iteration": 1})], pictures=0)
    run = read_run(str(folder))
    assert run.iterations == 0 and run.planned == 20 and run.curves == {}
