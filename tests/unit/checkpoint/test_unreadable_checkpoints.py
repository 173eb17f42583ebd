"""Checkpoints that the system does not read at the moment: an error, but no damage."""
import json
import os
import shutil

import pytest

from projects.MAE.checkpoint.manifest import MANIFEST, read_manifest
from projects.MAE.checkpoint.names import CARD
from projects.MAE.checkpoint.output_folder import open_output_folder
from projects.MAE.errors import UserError
from tests.support.checkpoints import CARD_OF_RUN, newest

TENSOR = "optimizer/tensor_00007/out"


def hide(path):
    """Let opening a file fail with ELOOP, which root meets, too; returns the way back."""
    path.rename(f"{path}.hidden")
    path.symlink_to(path.name)

    def bring_back():
        path.unlink()
        os.rename(f"{path}.hidden", path)

    return bring_back


def let_reading_fail(checkpoint, path):
    """Let a file open and have the size that is written down, but fail to be read, with EIO."""
    manifest = read_manifest(checkpoint)
    manifest["files"][path]["bytes"] = 0
    (checkpoint / MANIFEST).write_text(json.dumps(manifest))
    (checkpoint / path).unlink()
    (checkpoint / path).symlink_to("/proc/self/mem")  # nothing is mapped at its beginning


def names(folder):
    return sorted(path.name for path in folder.iterdir() if path.name != "run.lock")


def assert_refused(folder, path, why):
    before = names(folder)
    with pytest.raises(UserError) as error:
        open_output_folder(str(folder), True, CARD_OF_RUN)
    message = str(error.value)
    assert f"train.output_dir={folder}: {path}: can't be read: {why}" in message
    assert "start again" in message and "\n" not in message
    assert names(folder) == before and newest(folder).is_dir()


@pytest.mark.parametrize("path", [TENSOR, MANIFEST, "model/pickled_data"])
def test_a_file_that_can_not_be_opened(folder, path):
    bring_back = hide(newest(folder) / path)
    assert_refused(folder, newest(folder) / path, "Too many levels of symbolic links")
    bring_back()
    assert open_output_folder(str(folder), True, CARD_OF_RUN) == "model_0000002"


def test_a_file_that_can_not_be_read_to_its_end(folder):
    let_reading_fail(newest(folder), TENSOR)
    assert_refused(folder, newest(folder) / TENSOR, "Input/output error")


@pytest.mark.parametrize("path", [TENSOR, "optimizer/tensor_00007/meta", "model/pickled_data"])
def test_without_a_manifest(folder, path):
    for name in (MANIFEST, CARD):
        (newest(folder) / name).unlink()
    bring_back = hide(newest(folder) / path)
    assert_refused(folder, newest(folder) / path, "Too many levels of symbolic links")
    bring_back()
    assert open_output_folder(str(folder), True, CARD_OF_RUN) == "model_0000002"


def test_the_best(folder):
    shutil.copytree(newest(folder), folder / "model_best")
    hide(folder / "model_best" / TENSOR)
    assert_refused(folder, folder / "model_best" / TENSOR, "Too many levels of symbolic links")


def test_a_replaced_one_is_not_brought_back_over_one_that_may_be_whole(folder):
    shutil.copytree(folder / "model_0000000", folder / ".model_0000002.replaced")
    bring_back = hide(newest(folder) / TENSOR)
    assert_refused(folder, newest(folder) / TENSOR, "Too many levels of symbolic links")
    bring_back()
    assert open_output_folder(str(folder), True, CARD_OF_RUN) == "model_0000002"
    assert not (folder / ".model_0000002.replaced").exists()


def test_a_folder_in_place_of_a_file_is_damage(folder):
    (newest(folder) / TENSOR).unlink()
    (newest(folder) / TENSOR).mkdir()
    assert open_output_folder(str(folder), True, CARD_OF_RUN) == "model_0000001"
