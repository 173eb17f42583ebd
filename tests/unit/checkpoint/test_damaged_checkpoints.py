"""Checkpoints that a kill, a disk or a stranger has left: damage is found, no code run."""
import json
import os
import pickle
import shutil

import numpy as np
import pytest

from projects.MAE.checkpoint import run_folder
from projects.MAE.checkpoint.manifest import MANIFEST, check_whole, read_manifest, sha256_of
from projects.MAE.checkpoint.names import CARD, find_checkpoint, newest_checkpoints
from projects.MAE.checkpoint.output_folder import open_output_folder
from projects.MAE.checkpoint.reader import read_card, read_weights
from projects.MAE.errors import UserError
from tests.support.checkpoints import CARD_OF_RUN, newest, trained


def damage(path, kind):
    data = bytearray(path.read_bytes())
    if kind == "flipped":
        data[len(data) // 2] ^= 4
        path.write_bytes(data)
    elif kind == "truncated":
        path.write_bytes(data[:-1])
    elif kind == "empty":
        path.write_bytes(b"")
    else:
        path.unlink()


@pytest.mark.parametrize("kind", ["flipped", "truncated", "empty", "missing"])
@pytest.mark.parametrize("file", ["model/pickled_data", CARD, "optimizer/tensor_00007/out"])
def test_damage_is_named_set_aside_and_the_one_before_is_used(folder, caplog, file, kind):
    damage(newest(folder) / file, kind)
    assert open_output_folder(str(folder), True, CARD_OF_RUN) == "model_0000001"
    assert (folder / "last_checkpoint").read_text() == "model_0000001"
    assert (folder / "model_0000002.damaged").is_dir() and not newest(folder).exists()
    assert f"model_0000002/{file}" in caplog.text and "model_0000002.damaged" in caplog.text


def test_damaged_manifest(folder):
    (newest(folder) / MANIFEST).write_text('{"files": {"model/pickled_data": 3}}')
    assert open_output_folder(str(folder), True, CARD_OF_RUN) == "model_0000001"


@pytest.mark.parametrize(
    "path", ["/dev/zero", "../../other", "model/../../../x", "model", "model/half \ud800"]
)
def test_a_manifest_reaches_nothing_outside(folder, path):
    manifest = read_manifest(newest(folder))
    manifest["files"][path] = {"bytes": 0, "sha256": "0" * 64}
    (newest(folder) / MANIFEST).write_text(json.dumps(manifest))
    with pytest.raises(UserError):
        check_whole(newest(folder))


def test_nothing_whole_is_an_error_each_time(folder):
    for i in range(3):
        damage(folder / f"model_{i:07d}/model/tensor_00000/out", "truncated")
    for _ in range(2):
        with pytest.raises(UserError, match="no checkpoint of train.output_dir=.* is whole"):
            open_output_folder(str(folder), True, CARD_OF_RUN)
    assert len(list(folder.glob("model_*.damaged"))) == 3


def test_damage_without_a_manifest_is_found(folder):
    for name in (MANIFEST, CARD):
        (newest(folder) / name).unlink()
    check_whole(newest(folder))
    damage(newest(folder) / "optimizer/tensor_00007/out", "truncated")
    with pytest.raises(UserError, match="tensor_00007"):
        check_whole(newest(folder))


@pytest.mark.parametrize("text", [None, "model_0000099", "../elsewhere", "", "model_final"])
def test_last_checkpoint_that_names_nothing(folder, text):
    (folder / "last_checkpoint").unlink()
    if text is not None:
        (folder / "last_checkpoint").write_text(text)
    assert find_checkpoint(folder) == str(newest(folder))
    assert open_output_folder(str(folder), True, CARD_OF_RUN) == "model_0000002"
    assert (folder / "last_checkpoint").read_text() == "model_0000002"


def test_last_checkpoint_decides(folder):
    (folder / "last_checkpoint").write_text("model_0000001")
    order = ["model_0000001", "model_0000000", "model_0000002"]
    assert newest_checkpoints(folder) == order
    assert open_output_folder(str(folder), True, CARD_OF_RUN) == "model_0000001"


def test_a_kill_while_a_checkpoint_is_replaced_loses_nothing(folder):
    weights = read_weights(newest(folder))
    replaced, partial = (
        folder / run_folder.beside("", "model_0000002", kind) for kind in ("replaced", "partial")
    )
    os.rename(newest(folder), replaced)  # between the two renames
    shutil.copytree(folder / "model_0000000", partial)
    assert open_output_folder(str(folder), True, CARD_OF_RUN) == "model_0000002"
    found = read_weights(newest(folder))
    assert all(np.array_equal(found[name], weights[name]) for name in weights)
    assert not replaced.exists() and not partial.exists()


def test_a_kill_after_a_checkpoint_was_replaced_leaves_the_new_one(folder):
    old = folder / run_folder.beside("", "model_0000002", "replaced")
    shutil.copytree(folder / "model_0000000", old)
    shutil.rmtree(old / "optimizer")  # half deleted
    assert open_output_folder(str(folder), True, CARD_OF_RUN) == "model_0000002"
    assert read_card(newest(folder))["iteration"] == 3 and not old.exists()


def test_a_damaged_best_is_set_aside(folder):
    shutil.copytree(newest(folder), folder / "model_best")
    damage(folder / "model_best/model/tensor_00001/out", "flipped")
    assert open_output_folder(str(folder), True, CARD_OF_RUN) == "model_0000002"
    assert (folder / "model_best.damaged").is_dir() and not (folder / "model_best").exists()


class Poison:
    def __init__(self, path):
        self.path = path

    def __reduce__(self):
        return os.mkdir, (self.path,)


@pytest.mark.parametrize("part", ["model", "optimizer", "lr_scheduler"])
def test_resuming_runs_no_pickle(folder, tmp_path, part):
    trace = tmp_path / "it ran"
    poisoned = pickle.dumps({"protocol_version": 1, "data": {"state": Poison(str(trace))}})
    (newest(folder) / part / "pickled_data").write_bytes(poisoned)
    files = read_manifest(newest(folder))
    files["files"][f"{part}/pickled_data"] = {
        "bytes": len(poisoned),
        "sha256": sha256_of(newest(folder) / part / "pickled_data"),
    }
    (newest(folder) / MANIFEST).write_text(json.dumps(files))
    assert open_output_folder(str(folder), True, CARD_OF_RUN) == "model_0000002"
    with pytest.raises(UserError, match="refused: it holds (posix|os).mkdir"):
        trained(folder, False, steps=0).resume("model_0000002")
    assert not trace.exists()
    pickle.loads(poisoned)
    assert trace.exists()  # so it would have run
