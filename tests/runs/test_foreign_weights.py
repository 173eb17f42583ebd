"""Weights of other projects through tools/train.sh: evaluate them, and pretrain on from them."""
import json

import pytest

from projects.MAE.convert_weights import main
from tests.conftest import DATA
from tests.support.command import TINY, finetune, pretrain, train

FILES = DATA / "weights"


@pytest.fixture(scope="module")
def finetuned(image_folder, tmp_path_factory):
    """A short finetuning run with three classes."""
    folder = tmp_path_factory.mktemp("finetuned")
    finetune(image_folder, folder, "finetune.enable=False", "model.num_classes=3")
    return folder


def evaluation_of(path, data, output):
    foreign = ["finetune.weight_style=pytorch", f"finetune.path={path}"]
    log = finetune(data, output, "model.num_classes=3", "--eval-only", *foreign)
    return json.loads((output / "evaluation.json").read_text()), log


def test_eval_only_of_a_finetuned_file(image_folder, finetuned, tmp_path):
    weights = tmp_path / "finetuned.safetensors"
    assert main([str(finetuned), str(weights), "--to", "timm"]) == 0
    evaluation, log = evaluation_of(weights, image_folder, tmp_path / "out")
    assert "New, with initial values: none" in log
    lines = (finetuned / "metrics.json").read_text().splitlines()
    last = [line for line in map(json.loads, lines) if "Acc@1" in line][-1]
    assert evaluation["Acc@1"] == last["Acc@1"]
    assert evaluation["weights"] == str(weights) and evaluation["images"] == 9


def test_eval_only_needs_a_whole_classifier(image_folder, tmp_path):
    sizes = ["model.img_size=8", "model.embed_dim=8", "model.depth=1", "model.num_heads=2"]
    result = train(
        "quickstart_finetune.py",
        *TINY,
        *sizes,
        f"dataloader.train.dataset.0.root={image_folder}",
        f"train.output_dir={tmp_path}",
        "model.num_classes=3",
        "--eval-only",
        "finetune.weight_style=pytorch",
        f"finetune.path={FILES / 'training_full.pth'}",
    )
    assert result.returncode == 1
    (error,) = [line for line in result.stdout.splitlines() if line.startswith("error:")]
    assert "finetune.path=" in error and "fc_norm.weight" in error and "head.bias" in error


def test_pretraining_goes_on_from_the_authors_file(image_folder, tmp_path):
    sizes = ["model.img_size=16", "model.embed_dim=8", "model.depth=1", "model.num_heads=2"]
    decoder = ["model.decoder_embed_dim=4", "model.decoder_depth=1", "model.decoder_num_heads=2"]
    log = pretrain(
        image_folder,
        tmp_path,
        *sizes,
        *decoder,
        "train.train_iter=1",
        "finetune.enable=True",
        "finetune.weight_style=pytorch",
        f"finetune.path={FILES / 'training_full.pth'}",
    )
    assert "Loaded 38 tensors" in log
    assert "Interpolated for another image size: pos_embed, (1, 5, 8) to (1, 17, 8)" in log
    assert "New, with initial values: none" in log
