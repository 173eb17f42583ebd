"""Checkpoints: read back by everybody who should, whole or absent, damage found, no code run."""
import errno
import json
import os
import pickle
import shutil

import numpy as np
import oneflow as flow
import pytest
from libai.config import LazyCall
from libai.utils.checkpoint import Checkpointer
from omegaconf import OmegaConf

from projects.MAE.errors import UserError
from projects.MAE.hooks import CheckpointHook
from projects.MAE.modeling.graph import TrainGraph
from projects.MAE.modeling.mae import MaskedAutoencoderViT
from projects.MAE.utils import run_folder
from projects.MAE.utils.checkpoint import MAECheckpointer, open_output_folder
from projects.MAE.utils.libai_folder import (
    CARD,
    find_checkpoint,
    newest_checkpoints,
    read_card,
    read_part_with,
    read_weights,
)
from projects.MAE.utils.manifest import MANIFEST, check_whole, read_manifest, sha256_of
from projects.MAE.utils.part_writer import FolderWriter
from projects.MAE.utils.scheduler import warmup_cosine_lr
from tests.sizes import TINY_MAE

CFG = OmegaConf.create(dict(train=dict(global_batch_size=8)), flags={"allow_objects": True})
CFG.optim = LazyCall(flow.optim.AdamW)(lr=0.1)
CARD_OF_RUN = dict(model="MaskedAutoencoderViT", embed_dim=64, seed=0, global_batch_size=8)


def trained(folder, graph_mode, seed=0, steps=1):
    """A checkpointer for a tiny model that has taken `steps` steps."""
    flow.manual_seed(seed)
    model = MaskedAutoencoderViT(**TINY_MAE)
    betas = OmegaConf.create(dict(betas=[0.9, 0.95])).betas  # as a configuration gives them
    optimizer = flow.optim.AdamW(model.parameters(), lr=1e-2, betas=betas)
    scheduler = warmup_cosine_lr(optimizer, 10, 0)
    rng = np.random.default_rng(seed)
    inputs = [rng.random(shape, dtype=np.float32) for shape in [(2, 3, 32, 32), (2, 64)]]
    placement = next(model.parameters()).placement
    inputs = [
        flow.from_numpy(x).to_global(placement=placement, sbp=model.cls_token.sbp) for x in inputs
    ]
    parts = dict(optimizer=optimizer)
    if graph_mode:
        graph = TrainGraph(model, optimizer, scheduler)
        parts = dict(graph=graph)
    for _ in range(steps):
        if graph_mode:
            graph(images=inputs[0], noise=inputs[1])
        else:
            model(*inputs)["losses"].backward()
            optimizer.step()
            optimizer.zero_grad()
        scheduler.step()
    checkpointer = MAECheckpointer(model, str(folder), **parts, lr_scheduler=scheduler)
    checkpointer.card, checkpointer.cfg = dict(CARD_OF_RUN, classes=["a", "b"]), CFG
    checkpointer.samples = 30
    return checkpointer


def numbers(checkpoint):
    """{part: its state, tensors as lists of numbers}."""
    return {
        part: read_part_with(os.path.join(checkpoint, part), lambda t: t.read(part).tolist())
        for part in sorted(os.listdir(checkpoint))
    }


@pytest.fixture(scope="module")
def saved(tmp_path_factory):
    """An output folder with three checkpoints, after 1, 2 and 3 iterations; eager mode."""
    folder = tmp_path_factory.mktemp("saved")
    checkpointer = trained(folder, False)
    for i in range(3):
        checkpointer.save(f"model_{i:07d}", iteration=i + 1)
        checkpointer.tag_last_checkpoint(f"model_{i:07d}")
    return folder


@pytest.fixture
def folder(saved, tmp_path):
    """A copy that a test may break."""
    return shutil.copytree(saved, tmp_path / "run")


def newest(folder):
    return folder / "model_0000002"


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
    assert manifest["configuration"]["train"] == {"global_batch_size": 8}
    assert manifest["configuration"]["optim"]["_target_"].endswith("AdamW")


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


@pytest.mark.parametrize(
    "change, parts",
    [
        ({}, ["model_0000002, 3 iterations", "--resume", "another train.output_dir"]),
        ({"embed_dim": 32}, ["model.embed_dim=64, not 32", "another train.output_dir"]),
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
    with pytest.raises(UserError, match="train.output_dir=/sys/kernel can't be written to"):
        open_output_folder("/sys/kernel", False, CARD_OF_RUN)


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


class Loop:
    """What a hook sees of a trainer."""

    def __init__(self, start_iter, max_iter):
        self.start_iter, self.max_iter, self.iter = start_iter, max_iter, start_iter


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
