"""What a run finds in its output folder and leaves alone: checkpoints that it can't go on from."""
import json
import os
import shutil

import pytest
from libai.utils.checkpoint import Checkpointer

from projects.MAE.checkpoint import run_folder
from projects.MAE.checkpoint.output_folder import open_output_folder
from projects.MAE.checkpoint.reader import read_card
from projects.MAE.engine.stopping import divergence
from projects.MAE.errors import UserError
from tests.support.checkpoints import CARD_OF_RUN, newest, trained


def content(folder):
    """{path: bytes of a file, or None} of a whole folder, but for the lock of who looked at it."""
    paths = [path for path in sorted(folder.rglob("*")) if path.name != "run.lock"]
    return {str(path): path.read_bytes() if path.is_file() else None for path in paths}


@pytest.fixture
def best_alone(folder):
    """A folder whose numbered checkpoints were deleted to free space."""
    shutil.copytree(newest(folder), folder / "model_best")
    for i in range(3):
        shutil.rmtree(folder / f"model_{i:07d}")
    (folder / "last_checkpoint").unlink()
    return folder


def test_a_run_goes_on_from_the_best_where_it_alone_is_left(best_alone):
    before = content(best_alone / "model_best")
    assert open_output_folder(str(best_alone), True, CARD_OF_RUN) == "model_0000002"
    assert (best_alone / "last_checkpoint").read_text() == "model_0000002"
    assert content(best_alone / "model_best") == before
    numbered = content(best_alone / "model_0000002")
    assert list(numbered.values()) == list(before.values())
    shutil.rmtree(best_alone / "model_0000002")
    assert content(best_alone / "model_best") == before


def test_the_end_of_a_run_that_diverges_names_the_best_where_it_alone_is_left(best_alone):
    message = divergence("Loss", 7, str(best_alone))
    assert f"the last good checkpoint is {best_alone / 'model_best'}" in message


def test_a_best_that_tells_no_iteration_is_kept_and_refused(best_alone):
    card = best_alone / "model_best/model/model_card.json"
    (best_alone / "model_best/model/manifest.json").unlink()
    card.write_text(json.dumps({**json.loads(card.read_text()), "iteration": None}))
    before = content(best_alone)
    with pytest.raises(UserError) as error:
        open_output_folder(str(best_alone), True, CARD_OF_RUN)
    message = str(error.value)
    assert f"--resume: train.output_dir={best_alone} holds model_best" in message
    assert "another train.output_dir" in message and "move it away" in message
    assert f"finetune.path={best_alone / 'model_best'}" in message and "\n" not in message
    assert content(best_alone) == before
    (best_alone / "model_best").rename(best_alone / "moved away")
    assert open_output_folder(str(best_alone), True, CARD_OF_RUN) == ""


def test_what_libai_leaves_at_the_end_is_no_place_for_a_run(tmp_path):
    theirs = trained(tmp_path, True)
    Checkpointer(theirs.model, str(tmp_path), **theirs.checkpointables).save("model_final")
    assert (tmp_path / "last_checkpoint").read_text() == "model_final"
    for tag in ("model_final", "", None):
        (tmp_path / "last_checkpoint").unlink(missing_ok=True)
        if tag is not None:
            (tmp_path / "last_checkpoint").write_text(tag)
        before = content(tmp_path)
        with pytest.raises(UserError, match="holds the checkpoints of a run .model_final"):
            open_output_folder(str(tmp_path), False, CARD_OF_RUN)
        with pytest.raises(UserError, match="--resume: .* holds model_final, but no"):
            open_output_folder(str(tmp_path), True, CARD_OF_RUN)
        assert content(tmp_path) == before


def test_a_checkpoint_of_any_other_name_is_left_alone_where_it_is_the_last(folder):
    for i in range(2):
        shutil.rmtree(folder / f"model_{i:07d}")
    newest(folder).rename(folder / "my_model")
    (folder / "last_checkpoint").write_text("my_model")
    for resume in (False, True):
        with pytest.raises(UserError, match="my_model"):
            open_output_folder(str(folder), resume, CARD_OF_RUN)


@pytest.mark.parametrize("tag", ["", "model_final", "model_0000041"])
def test_a_last_checkpoint_that_names_nothing_is_forgotten(tmp_path, caplog, tag):
    (tmp_path / "last_checkpoint").write_text(tag)
    assert open_output_folder(str(tmp_path), True, CARD_OF_RUN) == ""
    assert not (tmp_path / "last_checkpoint").exists() and "last_checkpoint" in caplog.text


def test_a_later_model_final_is_kept_at_the_end(folder, caplog):
    shutil.copytree(newest(folder), folder / "model_final")
    for name in ("model_0000000", "model_0000001"):
        run_folder.link_final(str(folder), name)
        assert os.readlink(folder / "model_final") == name
    assert read_card(folder / "model_final.kept")["iteration"] == 3
    assert "kept as model_final.kept" in caplog.text
    kept = [path.name for path in folder.glob("model_final*")]
    assert sorted(kept) == ["model_final", "model_final.kept"]


def test_a_link_that_a_user_has_made_is_kept_at_the_end(folder, tmp_path):
    elsewhere = newest(folder).rename(tmp_path / "elsewhere")
    (folder / "model_final").symlink_to(elsewhere)
    run_folder.link_final(str(folder), "model_0000001")
    assert os.readlink(folder / "model_final.kept") == str(elsewhere) and elsewhere.is_dir()


@pytest.mark.parametrize("resume", [False, True])
def test_what_a_user_has_named_alike_is_left_alone(tmp_path, resume):
    names = [".notes.deleted", ".report.txt.replaced", "report.txt"]
    names += [".model_7.partial", ".model_best.deleted.txt"]
    for name in names:
        (tmp_path / name).write_text(f"text of {name}")
    (tmp_path / ".cache.partial").mkdir()
    (tmp_path / ".cache.partial" / "file").write_text("one")
    before = content(tmp_path)
    assert open_output_folder(str(tmp_path), resume, CARD_OF_RUN) == ""
    assert content(tmp_path) == before


def test_a_refused_folder_keeps_its_leftovers(folder):
    shutil.copytree(newest(folder), folder / ".model_0000002.partial")
    before = content(folder)
    with pytest.raises(UserError):
        open_output_folder(str(folder), False, CARD_OF_RUN)
    assert content(folder) == before


def test_a_checkpoint_that_a_kill_has_hidden_is_not_overwritten(folder):
    for i in range(2):
        shutil.rmtree(folder / f"model_{i:07d}")
    newest(folder).rename(folder / ".model_0000002.replaced")
    with pytest.raises(UserError, match="model_0000002, 3 iterations"):
        open_output_folder(str(folder), False, CARD_OF_RUN)
    assert newest(folder).is_dir()


@pytest.mark.parametrize(
    "name",
    [
        *["run.lock", "config.yaml", "environment.json", "metrics.json", "log.txt", "log.txt.rank1"],
        *["last_checkpoint.partial", "config.yaml.partial", "tensorboard", "reconstructions"],
        "wandb_id.txt",
    ],
)
@pytest.mark.parametrize("kind", ["link", "dangling link", "pipe"])
def test_nothing_is_written_through_what_is_no_file(tmp_path, name, kind):
    target = tmp_path / "of the user"
    target.mkdir()
    (target / "file").write_text("mine")
    folder = tmp_path / "run"
    folder.mkdir()
    if kind == "pipe":
        os.mkfifo(folder / name)
    else:
        is_folder = name in ("tensorboard", "reconstructions")
        (folder / name).symlink_to(target if is_folder else target / ("file" if kind == "link" else "new"))
    with pytest.raises(UserError, match=f"{name} is (a link to {target}|no file)"):
        run_folder.check_entries(str(folder))
    assert content(target) == {str(target / "file"): b"mine"}


def test_links_to_checkpoints_and_the_users_own_may_lie_there(folder):
    (folder / "model_final").symlink_to("model_0000002")
    (folder / "notes").symlink_to("/nowhere")
    run_folder.check_entries(str(folder))
    run_folder.check_entries(str(folder / "missing"))
