"""The converter: every direction, bit by bit, and what it refuses."""
import json

import numpy as np
import pytest
from safetensors.numpy import load_file, save_file

from projects.MAE.checkpoint.names import find_checkpoint
from projects.MAE.checkpoint.reader import read_card, read_weights
from projects.MAE.convert_weights import main
from tests.conftest import DATA
from tests.support.checkpoints import load_torch_state_dict
from tests.support.command import pretrain
from tests.support.golden_models import part

FILES = DATA / "weights"
HEADS = ["--num-heads", "4", "--decoder-num-heads", "4"]


@pytest.fixture(scope="module")
def models(golden):
    full = part(golden("pretrain_tiny"), "state/")
    return {
        "full": full,
        "encoder": {n: a for n, a in full.items() if not n.startswith(("decoder_", "mask"))},
        "mean": part(golden("finetune_tiny"), "global_pool/state/"),
        "token": part(golden("finetune_tiny"), "cls_token/state/"),
    }


@pytest.fixture
def source(models, tmp_path):
    """Write a model as the authors would name it, in safetensors; returns the path."""

    def write(kind):
        path = tmp_path / f"{kind}.safetensors"
        save_file({n: np.ascontiguousarray(a) for n, a in models[kind].items()}, path)
        return path

    return write


def convert(*arguments):
    assert main([str(a) for a in arguments]) == 0


def refused(capsys, *arguments):
    assert main([str(a) for a in arguments]) == 1
    error = capsys.readouterr().err
    assert error.startswith("error: ") and error.count("\n") == 1
    return error


def assert_same(first, second):
    assert set(first) == set(second)
    for name, array in first.items():
        np.testing.assert_array_equal(array, second[name])


@pytest.mark.parametrize(
    "kind, layout",
    [("full", "mae"), ("full", "transformers"), ("mean", "mae"), ("mean", "timm")]
    + [("token", "timm"), ("token", "transformers"), ("encoder", "timm")]
    + [("encoder", "mae"), ("encoder", "transformers")],
)
def test_round_trips_are_exact(models, source, tmp_path, kind, layout):
    libai, away, back = tmp_path / "libai", tmp_path / "away", tmp_path / "back"
    convert(source(kind), libai, "--to", "libai", "--norm-pix-loss", "no", *HEADS)
    if layout != "transformers":
        away = away.with_suffix(".safetensors")
    # The card of the checkpoint knows the heads and the target of the loss from here on.
    convert(libai, away, "--to", layout)
    assert_same(load_torch_state_dict(away), models[kind])
    convert(away, back, "--to", "libai")
    assert_same(read_weights(back), read_weights(libai))


def test_timm_gets_the_encoder_of_a_full_model(models, source, tmp_path, capsys):
    convert(source("full"), tmp_path / "vit.safetensors", "--to", "timm")
    assert "left out: " in capsys.readouterr().out
    assert_same(load_file(tmp_path / "vit.safetensors"), models["encoder"])


def test_the_card_says_what_the_file_holds(tmp_path):
    convert(FILES / "training_full.pth", tmp_path / "out.safetensors", "--to", "mae")
    card = json.loads((tmp_path / "out.safetensors.json").read_text())
    assert card["model"] == "MaskedAutoencoderViT" and card["parts"] == "full"
    assert card["norm_pix_loss"] is True and card["epoch"] == 799
    assert card["img_size"] == 8 and card["embed_dim"] == 8 and card["mlp_ratio"] == 4
    assert card["source"] == str(FILES / "training_full.pth")


def test_libai_card_is_what_checkpoints_carry(source, tmp_path):
    convert(source("mean"), tmp_path / "libai", "--to", "libai", *HEADS)
    card = read_card(find_checkpoint(tmp_path / "libai"))
    assert card["model"] == "VisionTransformer" and card["global_pool"] is True
    assert card["num_classes"] == 10 and card["num_heads"] == 4


def test_an_unknown_number_of_heads_is_not_guessed(source, tmp_path, capsys):
    for layout in ("libai", "transformers"):
        error = refused(capsys, source("token"), tmp_path / "out", "--to", layout)
        assert "--num-heads" in error
    error = refused(
        capsys, source("full"), tmp_path / "out", "--to", "libai", "--num-heads", "4"
    )
    assert "--decoder-num-heads" in error
    error = refused(capsys, source("token"), tmp_path / "out", "--to", "libai", "--num-heads", "5")
    assert "does not divide" in error
    assert not (tmp_path / "out").exists()


def test_options_may_not_contradict_the_source(source, tmp_path, capsys):
    convert(source("full"), tmp_path / "libai", "--to", "libai", "--norm-pix-loss", "no", *HEADS)
    command = [tmp_path / "libai", tmp_path / "out.safetensors", "--to", "mae"]
    assert "--num-heads says 8" in refused(capsys, *command, "--num-heads", "8")
    assert "--norm-pix-loss" in refused(capsys, *command, "--norm-pix-loss", "yes")


def test_what_transformers_can_not_hold(source, tmp_path, capsys):
    command = [tmp_path / "out", "--to", "transformers", *HEADS]
    assert "--to timm" in refused(capsys, source("mean"), *command)
    assert "--norm-pix-loss" in refused(capsys, source("full"), *command)


def test_nothing_is_overwritten_without_force(source, tmp_path, capsys):
    target, folder = tmp_path / "out.safetensors", tmp_path / "libai"
    target.write_text("precious")
    assert "--force" in refused(capsys, source("full"), target, "--to", "mae")
    assert target.read_text() == "precious"
    convert(source("full"), target, "--to", "mae", "--force")
    convert(source("token"), folder, "--to", "libai", *HEADS)
    refused(capsys, source("full"), folder, "--to", "libai", *HEADS)
    convert(source("full"), folder, "--to", "libai", "--force", *HEADS)
    assert "mask_token" in read_weights(folder)
    left = [file.name for file in tmp_path.iterdir() if file.name.startswith(".")]
    assert left == []


def test_force_spares_folders_of_other_things(source, tmp_path, capsys):
    (tmp_path / "photos").mkdir()
    (tmp_path / "photos" / "last.jpg").write_text("precious")
    command = [source("token"), tmp_path / "photos", "--to", "libai", "--force", *HEADS]
    assert "holds no model" in refused(capsys, *command)
    command[3] = "mae"
    assert "holds no model" in refused(capsys, *command, "--format", "safetensors")
    assert (tmp_path / "photos" / "last.jpg").read_text() == "precious"


def test_formats_that_do_not_fit(source, tmp_path, capsys):
    file = source("token")
    out = [file, tmp_path / "out"]
    assert "--format" in refused(capsys, *out, "--to", "libai", "--format", "pth")
    assert "--format" in refused(capsys, *out, "--to", "transformers", "--format", "pth")
    wrong = [file, tmp_path / "out.pth", "--to", "mae", "--format", "safetensors"]
    assert "does not end" in refused(capsys, *wrong)


def test_pth_needs_pytorch(source, tmp_path, capsys, monkeypatch):
    monkeypatch.setattr("importlib.util.find_spec", lambda name: None)
    error = refused(capsys, source("token"), tmp_path / "out.pth", "--to", "mae")
    assert "pip install torch" in error and "--format safetensors" in error


@pytest.mark.parametrize("damage", ["nan", "missing", "shape", "extra"])
def test_damaged_models(models, tmp_path, capsys, damage):
    state = {name: np.array(array) for name, array in models["full"].items()}
    name = "blocks.1.attn.proj.weight"
    if damage == "nan":
        state[name][0, 0] = np.nan
    elif damage == "missing":
        del state[name]
    elif damage == "shape":
        state[name] = state[name][:-1]
    else:
        name = "head.weight"
        state[name] = np.ones((10, 32), np.float32)
    save_file(state, tmp_path / "bad.safetensors")
    error = refused(capsys, tmp_path / "bad.safetensors", tmp_path / "out", "--to", "libai", *HEADS)
    assert name in error and not (tmp_path / "out").exists()


def test_malicious_source(tmp_path, capsys, monkeypatch):
    monkeypatch.chdir(tmp_path)
    error = refused(capsys, FILES / "malicious.pth", "out.safetensors", "--to", "timm")
    assert "refused" in error and list(tmp_path.iterdir()) == []


def test_help_has_examples(capsys):
    with pytest.raises(SystemExit) as done:
        main(["--help"])
    assert done.value.code == 0 and "--to timm" in capsys.readouterr().out


@pytest.mark.parametrize("layout", ["tensor", "pipeline"])
def test_checkpoints_of_parallel_runs(image_folder, tmp_path, layout):
    # No update changes the initial weights, which are the same on every layout.
    settings = ["train.train_iter=1", "optim.lr=0.0", "model.decoder_depth=2"]
    pretrain(image_folder, tmp_path / "one", *settings)
    split = f"train.dist.{layout}_parallel_size=2"
    pretrain(image_folder, tmp_path / "two", *settings, split, ranks=2)
    for name in ("one", "two"):
        convert(tmp_path / name, tmp_path / f"{name}.safetensors", "--to", "mae")
    one, two = (load_file(tmp_path / f"{name}.safetensors") for name in ("one", "two"))
    assert_same(one, two)
