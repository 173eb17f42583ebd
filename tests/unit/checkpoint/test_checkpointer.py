"""Checkpoints: read back by everybody who should, written whole or not at all, kept while needed."""
import errno
import os
import shutil

import numpy as np
import pytest
from libai.utils.checkpoint import Checkpointer

from projects.MAE.checkpoint.manifest import MANIFEST, read_manifest, sha256_of
from projects.MAE.checkpoint.output_folder import open_output_folder
from projects.MAE.checkpoint.reader import read_part_with
from projects.MAE.checkpoint.writer import FolderWriter
from projects.MAE.engine.hooks import CheckpointHook
from projects.MAE.errors import UserError
from tests.support.checkpoints import CARD_OF_RUN, Loop, newest, trained


def numbers(checkpoint):
    """{part: its state, tensors as lists of numbers}."""
    parts = {
        part: read_part_with(os.path.join(checkpoint, part), lambda t: t.read(part).tolist())
        for part in sorted(os.listdir(checkpoint))
    }
    for group in parts.get("optimizer", {}).get("param_groups", []):
        for key in ("bias_correction1", "bias_correction2"):  # each step computes them anew
            del group["_options"][key]
    return parts


@pytest.mark.parametrize("graph_mode", [True, False])
def test_resuming_gives_back_all_that_was_saved(tmp_path, graph_mode):
    first = trained(tmp_path, graph_mode, steps=2)
    first.save("model_0000001", iteration=2)
    other = trained(tmp_path, graph_mode, seed=1, steps=0)
    other.resume("model_0000001")
    other.save("model_0000005", iteration=6)
    before, after = (numbers(tmp_path / name) for name in ("model_0000001", "model_0000005"))
    assert before == after and len(before) == 3
    moments = [v for k, v in before.get("graph", {}).items()] or before["optimizer"]["state"]
    assert np.abs(np.array(moments[0]["exp_avg"] if not graph_mode else moments[0])).max() > 0


@pytest.mark.parametrize("graph_mode", [True, False])
def test_libai_reads_what_was_saved(tmp_path, graph_mode):
    ours = trained(tmp_path, graph_mode, steps=2)
    ours.save("model_0000001", iteration=2)
    theirs = trained(tmp_path, graph_mode, seed=1, steps=0)
    loader = Checkpointer(theirs.model, str(tmp_path), **theirs.checkpointables)
    assert loader.load(str(tmp_path / "model_0000001"))["iter"] == 1
    theirs.save("model_0000002", iteration=2)
    assert numbers(tmp_path / "model_0000001") == numbers(tmp_path / "model_0000002")


@pytest.mark.parametrize("graph_mode", [True, False])
def test_what_libai_saved_is_resumed(tmp_path, graph_mode):
    theirs = trained(tmp_path, graph_mode, steps=2)
    Checkpointer(theirs.model, str(tmp_path), **theirs.checkpointables).save("model_0000001")
    assert open_output_folder(str(tmp_path), True, {"seed": 3}) == "model_0000001"
    ours = trained(tmp_path, graph_mode, seed=1, steps=0)
    ours.resume("model_0000001")
    ours.save("model_0000002", iteration=3)
    theirs.save("model_0000003", iteration=3)
    assert numbers(tmp_path / "model_0000002") == numbers(tmp_path / "model_0000003")


def test_manifest(saved):
    checkpoint = newest(saved)
    manifest = read_manifest(checkpoint)
    there = {p.relative_to(checkpoint).as_posix() for p in checkpoint.rglob("*") if p.is_file()}
    assert set(manifest["files"]) == there - {MANIFEST}
    for path, entry in manifest["files"].items():
        assert entry["bytes"] == (checkpoint / path).stat().st_size
        assert entry["sha256"] == sha256_of(checkpoint / path)
    assert manifest["position"] == dict(iteration=3, epoch=0, samples_of_epoch=24, samples_seen=24)
    assert manifest["versions"]["oneflow"].startswith("0.9") and manifest["classes"] == ["a", "b"]
    assert manifest["configuration"]["train"] == {"output_dir": str(saved)}
    assert manifest["configuration"]["optim"]["_target_"].endswith("AdamW")


@pytest.mark.parametrize(
    "change, parts",
    [
        ({}, ["model_0000002, 3 iterations", "--resume", "name another folder"]),
        ({"embed_dim": 32}, ["model.embed_dim=64, not 32", "name another folder"]),
        ({"seed": 1}, ["train.seed=0, not 1"]),
        ({"global_batch_size": 4}, ["train.global_batch_size=8, not 4"]),
        ({"model": "VisionTransformer"}, ["model=MaskedAutoencoderViT, not VisionTransformer"]),
    ],
)
def test_a_folder_that_holds_a_run_is_left_alone(folder, change, parts):
    before = sorted(str(path) for path in folder.rglob("*"))
    with pytest.raises(UserError) as error:
        open_output_folder(str(folder), False, {**CARD_OF_RUN, **change})
    assert all(part in str(error.value) for part in parts) and "\n" not in str(error.value)
    assert sorted(str(path) for path in folder.rglob("*")) == before


def test_a_dry_run_may_be_repeated(folder):
    assert open_output_folder(str(folder), False, CARD_OF_RUN, dry_run=True) == ""
    assert not list(folder.glob("*model*")) and not (folder / "last_checkpoint").exists()


def test_a_missing_part_tells_the_mode(folder):
    with pytest.raises(UserError, match="holds no part graph.* set graph.enabled=False"):
        open_output_folder(str(folder), True, CARD_OF_RUN, ["graph", "lr_scheduler"])


def test_a_folder_that_takes_no_file():
    with pytest.raises(UserError, match="/sys/kernel: can't be written to"):
        open_output_folder("/sys/kernel", False, CARD_OF_RUN)


def test_a_full_disk_leaves_out_the_rest_and_names_the_file(tmp_path):
    writer = FolderWriter(str(tmp_path / "folder"))
    os.symlink("/dev/full", tmp_path / "folder" / "out")
    for name in ("before", "out", "after"):
        writer.file(name, b"x" * 100)
    writer.finish()
    assert writer.error.errno == errno.ENOSPC and writer.error.filename.endswith("folder/out")
    assert set(writer.files) == {"before"} and not (tmp_path / "folder" / "after").exists()


def test_no_room_is_an_error_before_anything_is_written(tmp_path, monkeypatch):
    checkpointer = trained(tmp_path, False)
    checkpointer.check_room()
    free = shutil.disk_usage(tmp_path)
    monkeypatch.setattr(shutil, "disk_usage", lambda path: free._replace(free=1_000_000))
    for action in (checkpointer.check_room, lambda: checkpointer.save("model_0000000", iteration=1)):
        with pytest.raises(UserError, match=r"needs \d\.\d MB, the disk has 1\.0 MB free"):
            action()
    assert not os.listdir(tmp_path)


def test_max_to_keep_spares_the_newest_and_the_best(folder):
    shutil.copytree(newest(folder), folder / "model_best")
    os.symlink("model_0000002", folder / "model_final")
    hook = CheckpointHook(trained(folder, False), lambda done: True, max_to_keep=1)
    hook.trainer = Loop(3, 6)
    hook.before_train()
    for hook.trainer.iter in range(3, 6):
        hook.after_step()
        there = {path.name for path in folder.glob("model_*")} - {"model_final"}
        assert there == {"model_best", f"model_{hook.trainer.iter:07d}"}
        assert (folder / "last_checkpoint").read_text() == f"model_{hook.trainer.iter:07d}"
        assert os.path.exists(folder / "model_final") == os.path.lexists(folder / "model_final")
    assert os.readlink(folder / "model_final") == "model_0000005"
