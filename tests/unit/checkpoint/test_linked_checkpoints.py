"""Checkpoints that a user has moved to another disk and linked, and what can't be removed."""
import os
import shutil
import subprocess

import pytest

from projects.MAE.checkpoint import run_folder
from projects.MAE.checkpoint.manifest import check_whole
from projects.MAE.checkpoint.output_folder import open_output_folder
from projects.MAE.checkpoint.reader import read_card
from projects.MAE.engine.hooks import CheckpointHook
from projects.MAE.errors import UserError
from tests.support.checkpoints import CARD_OF_RUN, Loop, newest, trained
from tests.support.needs import mount_memory


def move_and_link(path, disk):
    """Move a checkpoint to a folder and leave a link; returns its new place."""
    disk.mkdir(exist_ok=True)
    place = path.rename(disk / path.name)
    path.symlink_to(place)
    return place


def dotted(folder):
    return [path.name for path in folder.glob(".model*")]


def test_max_to_keep_removes_the_link_alone(folder, tmp_path):
    places = [move_and_link(folder / f"model_{i:07d}", tmp_path / "disk") for i in range(3)]
    hook = CheckpointHook(trained(folder, False), lambda done: True, max_to_keep=1)
    hook.trainer = Loop(3, 4)
    hook.before_train()
    hook.after_step()
    assert [path.name for path in folder.glob("model_0*")] == ["model_0000003"]
    assert not dotted(folder)
    for place in places:
        check_whole(place)
    assert open_output_folder(str(folder), True, CARD_OF_RUN) == "model_0000003"


def test_a_linked_best_is_replaced_any_number_of_times(folder, tmp_path):
    shutil.copytree(newest(folder), folder / "model_best")
    place = move_and_link(folder / "model_best", tmp_path / "disk")
    checkpointer = trained(folder, False)
    for iteration in (7, 8, 9):
        checkpointer.save("model_best", iteration=iteration)
        assert read_card(folder / "model_best")["iteration"] == iteration
        assert not dotted(folder)
    assert read_card(place)["iteration"] == 3


@pytest.mark.parametrize("kind", ["replaced", "deleted", "partial"])
def test_a_link_that_a_kill_has_left_is_cleared(folder, tmp_path, kind):
    place = newest(folder).rename(tmp_path / "place")
    shutil.copytree(place, newest(folder))
    os.symlink(place, run_folder.beside(folder, "model_0000002", kind))
    assert open_output_folder(str(folder), True, CARD_OF_RUN) == "model_0000002"
    assert not dotted(folder)
    check_whole(place)


@pytest.mark.parametrize("name", ["model_0000002", "model_best"])
def test_a_link_to_a_disk_that_is_not_there_is_an_error(folder, tmp_path, name):
    if name == "model_best":
        shutil.copytree(newest(folder), folder / name)
    place = move_and_link(folder / name, tmp_path / "disk")
    place.rename(tmp_path / "unmounted")
    for resume in (False, True):
        with pytest.raises(UserError) as error:
            open_output_folder(str(folder), resume, CARD_OF_RUN)
        message = str(error.value)
        assert f"train.output_dir={folder}: {name} is a link to {place}" in message
        assert "mount that disk, or remove the link" in message
    assert os.readlink(folder / name) == str(place)
    (tmp_path / "unmounted").rename(place)
    assert open_output_folder(str(folder), True, CARD_OF_RUN) == "model_0000002"


@pytest.mark.parametrize("kind", ["folder", "file", "link"])
def test_what_was_left_of_a_replaced_one_is_in_nobodys_way(folder, tmp_path, kind):
    left = folder / ".model_best.replaced"
    shutil.copytree(newest(folder), folder / "model_best")
    if kind == "folder":
        shutil.copytree(newest(folder), left)
    elif kind == "file":
        left.write_text("text")
    else:
        left.symlink_to(tmp_path)
    trained(folder, False).save("model_best", iteration=9)
    assert read_card(folder / "model_best")["iteration"] == 9 and not dotted(folder)
    assert tmp_path.is_dir()


def test_a_checkpoint_that_can_not_be_removed_ends_no_run(folder, caplog):
    held = folder / "model_0000000" / "held"  # as a network disk keeps a file that is being read
    held.mkdir()
    mount_memory(held)
    try:
        run_folder.delete(str(folder), "model_0000000")
        assert not (folder / "model_0000000").exists() and "is left over" in caplog.text
    finally:
        subprocess.run(["umount", folder / ".model_0000000.deleted" / "held"], check=True)
    assert open_output_folder(str(folder), True, CARD_OF_RUN) == "model_0000002"
    assert not dotted(folder)
