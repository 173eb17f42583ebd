"""Pipes, devices and links in the places of a checkpoint's files: refused, and never waited for."""
import os
import shutil

import numpy as np
import pytest

from projects.MAE.checkpoint.manifest import MANIFEST, check_whole, fingerprint, read_manifest
from projects.MAE.checkpoint.names import CARD, find_checkpoint, named_last
from projects.MAE.checkpoint.reader import read_card, read_weights
from projects.MAE.errors import UserError
from projects.MAE.weights.files import check_weight_file, read_weight_file
from tests.soak.fuzz_files import Seeds, write


@pytest.fixture(scope="module")
def files():
    return Seeds().files


def replace(path, kind):
    if path.is_dir():
        shutil.rmtree(path)
    else:
        path.unlink()
    if kind == "pipe":
        os.mkfifo(path)
    elif kind == "device":
        path.symlink_to("/dev/zero")
    else:
        path.mkdir()


@pytest.mark.parametrize("kind", ["pipe", "device", "folder"])
@pytest.mark.parametrize("name", ["pickled_data", "norm.bias/meta", "norm.bias/out"])
def test_parts_of_weights(tmp_path, files, name, kind):
    write(files["libai"], tmp_path)
    folder = tmp_path / "w/model_0000001"
    replace(folder / "model" / name, kind)
    with pytest.raises(UserError, match="regular file|directory"):
        read_weights(str(folder))
    with pytest.raises(UserError):
        check_whole(str(folder))


@pytest.mark.parametrize("kind", ["pipe", "device"])
def test_an_empty_tensor_that_is_none(tmp_path, files, kind):
    write(files["libai"], tmp_path)
    tensor = tmp_path / "w/model_0000001/model/norm.bias"
    (tensor / "meta").write_text("shape { dim: 0 } data_type: kFloat")
    replace(tensor / "out", kind)
    with pytest.raises(UserError, match="not a regular file"):
        read_weights(str(tmp_path / "w/model_0000001"))


@pytest.mark.parametrize("kind", ["pipe", "device", "folder"])
def test_what_lies_beside_weights(tmp_path, files, kind):
    write(files["manifest"], tmp_path)
    checkpoint = tmp_path / "w/model_0000001"
    weights = read_weights(str(checkpoint))
    for name in (MANIFEST, CARD):
        replace(checkpoint / name, kind)
    assert read_card(str(checkpoint)) == {} and read_manifest(str(checkpoint)) is None
    (tmp_path / "w/last_checkpoint").write_text("x")
    replace(tmp_path / "w/last_checkpoint", kind)
    assert named_last(str(tmp_path / "w")) is None
    assert find_checkpoint(str(tmp_path / "w")) == str(checkpoint)
    again = read_weights(str(checkpoint))
    assert all(np.array_equal(again[name], weights[name]) for name in weights)


@pytest.mark.parametrize("kind", ["pipe", "device"])
def test_weight_files(tmp_path, kind):
    (tmp_path / "w").touch()
    replace(tmp_path / "w", kind)
    for read in (check_weight_file, read_weight_file):
        with pytest.raises(UserError, match="not a regular file"):
            read(tmp_path / "w")


def test_a_card_too_large(tmp_path, files):
    write(files["libai"], tmp_path)
    with open(tmp_path / "w/model_0000001" / CARD, "a") as file:
        file.write(" " * 2**23)
    with pytest.raises(UserError, match="refused: it has more than 4194304 bytes"):
        read_card(str(tmp_path / "w/model_0000001"))


def test_a_header_too_large(tmp_path):
    with open(tmp_path / "w.safetensors", "wb") as file:
        file.write((2**26).to_bytes(8, "little") + b"{" + b" " * 2**26)
    with pytest.raises(UserError, match="refused: its header has more than"):
        read_weight_file(tmp_path / "w.safetensors")


def test_the_name_of_weights_whose_manifest_is_a_pipe(tmp_path, files):
    write(files["manifest"], tmp_path)
    replace(tmp_path / "w/model_0000001" / MANIFEST, "pipe")
    with pytest.raises(UserError, match="not a regular file"):
        fingerprint(str(tmp_path / "w/model_0000001"))
