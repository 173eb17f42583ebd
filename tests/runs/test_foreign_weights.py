"""Weights of other projects through tools/train.sh: evaluate them, and pretrain on from them."""
import json
import os

import numpy as np
import pytest
from PIL import Image
from safetensors.numpy import load_file, save_file

from projects.MAE import load_encoder, predict
from projects.MAE.convert_weights import main
from tests.commands.process import succeed
from tests.conftest import DATA
from tests.support.command import TINY, finetune, pretrain, train

FILES = DATA / "weights"


@pytest.fixture(scope="module")
def finetuned(image_folder, tmp_path_factory):
    """A short finetuning run with three classes."""
    folder = tmp_path_factory.mktemp("finetuned")
    finetune(image_folder, folder, "finetune.enable=False", "model.num_classes=3")
    return folder


def evaluation_of(path, data, output, *arguments):
    foreign = ["finetune.weight_style=pytorch", f"finetune.path={path}", "--eval-only"]
    log = finetune(data, output, "model.num_classes=3", *foreign, *arguments)
    return json.loads((output / "evaluation.json").read_text()), log


@pytest.fixture(scope="module")
def strange(image_folder, finetuned, tmp_path_factory):
    """The run's classifier as a stranger would have it: classes in another order, images of another
    range, stretched, by another filter; with a head that gives different images different classes."""
    path = tmp_path_factory.mktemp("strange") / "vit.safetensors"
    assert main([str(finetuned), str(path), "--to", "timm"]) == 0
    card = json.loads(path.with_suffix(".safetensors.json").read_text())
    card["classes"] = ["class2", "class0", "class1"]
    card["preprocessing"] = dict(resize=[28, 26], crop=24, mean=[0.1] * 3, std=[0.9] * 3, resample="box")
    path.with_suffix(".safetensors.json").write_text(json.dumps(card))
    features = load_encoder(path)(sorted((image_folder / "val").glob("*/*")))
    state = load_file(path)
    state["head.weight"] = np.random.default_rng(0).standard_normal((3, 32), dtype=np.float32)
    state["head.bias"] = -(features @ state["head.weight"].T).mean(axis=0)
    save_file(state, path)
    return path


USED = "resize 28x26 box, crop 24, mean (0.1, 0.1, 0.1), std (0.9, 0.9, 0.9)"


def accuracy_of_predict(capsys, weights, data, classes):
    """Percent of images whose own class is the most probable one of `classes`."""
    found = json.loads(succeed(capsys, predict.main, "--weights", weights, data / "val", "--json"))
    assert len({item["predictions"][0]["class"] for item in found}) > 1
    best = [next(p["class"] for p in item["predictions"] if p["class"] in classes) for item in found]
    own = [item["image"].split(os.sep)[-2] for item in found]
    return 100.0 * np.mean([a == b for a, b in zip(best, own)])


def test_eval_only_means_what_predict_means(image_folder, strange, tmp_path, capsys):
    """By the preprocessing that the weights name, and by the names of classes."""
    evaluation, log = evaluation_of(strange, image_folder, tmp_path)
    assert f"{USED}, the configuration has resize 24 bicubic" in log and "the weights' is used" in log
    assert "the 3 class folders are outputs 1, 2, 0 of the head" in log
    classes = ["class0", "class1", "class2"]
    expected = accuracy_of_predict(capsys, strange, image_folder, classes)
    assert evaluation["Acc@1"] == pytest.approx(expected)
    evaluation, log = evaluation_of(
        strange, image_folder, tmp_path / "recipe", "train.evaluation.preprocessing=recipe"
    )
    assert USED in log and "the configuration's is used" in log and evaluation["images"] == 9


def test_eval_only_reads_files_as_the_weights_training_did(image_folder, finetuned, tmp_path):
    """Its card says exif and bits, too; predict goes by them."""
    for split in ("train", "val"):
        for file in (image_folder / split).glob("*/*"):
            target = tmp_path / split / file.parent.name
            target.mkdir(parents=True, exist_ok=True)
            turned = Image.Exif()
            turned[274] = 6
            Image.open(file).save(target / file.name, exif=turned)
    weights = tmp_path / "vit.safetensors"
    assert main([str(finetuned), str(weights), "--to", "timm"]) == 0
    card = json.loads(weights.with_suffix(".safetensors.json").read_text())
    weights.with_suffix(".safetensors.json").write_text(json.dumps({**card, "exif": "ignore"}))
    _, log = evaluation_of(weights, tmp_path, tmp_path / "out")
    differs = "was trained with data.exif=ignore data.bits=16, the configuration has data.exif=apply data.bits=16"
    assert f"{differs}: the weights' is used" in log
    arguments = [f"finetune.path={weights}", "model.num_classes=3", "--knn", "train.knn.k=5"]
    recipe = "train.evaluation.preprocessing=recipe"
    log = finetune(tmp_path, tmp_path / "knn", *arguments, recipe)
    assert f"{differs}: the configuration's is used" in log


def test_eval_only_of_a_part_of_the_classes(image_folder, strange, tmp_path, capsys):
    for split in ("train", "val"):
        (tmp_path / split).mkdir()
        for name in ("class0", "class2"):
            (tmp_path / split / name).symlink_to(image_folder / split / name)
    result = train(
        "quickstart_finetune.py",
        *TINY,
        f"dataloader.train.dataset.0.root={tmp_path}",
        f"train.output_dir={tmp_path / 'out'}",
        "model.num_classes=3",
        "--eval-only",
        "finetune.weight_style=pytorch",
        f"finetune.path={strange}",
    )
    (error,) = [line for line in result.stdout.splitlines() if line.startswith("error:")]
    assert "without data: 1 (class1): train.evaluation.classes=subset" in error
    evaluation, _ = evaluation_of(strange, tmp_path, tmp_path / "out", "train.evaluation.classes=subset")
    expected = accuracy_of_predict(capsys, strange, tmp_path, ["class0", "class2"])
    assert evaluation["images"] == 6 and evaluation["Acc@1"] == pytest.approx(expected)


def test_finetuning_and_neighbours_say_whose_preprocessing_they_take(image_folder, strange, tmp_path):
    foreign = ["finetune.weight_style=pytorch", f"finetune.path={strange}", "model.num_classes=3"]
    log = finetune(image_folder, tmp_path / "tuned", *foreign, "train.train_iter=1")
    assert USED in log and "this run's is used" in log
    assert "its head is put in this one" in log
    log = finetune(image_folder, tmp_path / "knn", *foreign, "--knn", "train.knn.k=5")
    assert USED in log and "the weights' is used" in log


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
