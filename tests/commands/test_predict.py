"""What predict prints, against the golden logits."""
import json
import os
import shutil

import numpy as np
import oneflow as flow
import pytest
from PIL import Image

from projects.MAE.predict import main
from tests.support.command import ROOT, environment
from tests.commands import process
from tests.commands.process import refused, succeed
from tests.commands.weights import write_weights
from tests.support.golden_models import tiny_vit, to_global

CLASSES = [f"class {letter}" for letter in "abcdefghij"]


@pytest.fixture(scope="module")
def weights(golden, tmp_path_factory):
    path = tmp_path_factory.mktemp("weights") / "vit"
    return write_weights(golden, "mean", path, classes=CLASSES)


@pytest.fixture
def files(image_folder):
    return sorted((image_folder / "val" / "class0").iterdir())


def test_the_most_probable_classes(golden, weights, files, capsys):
    from projects.MAE.weights.saved_model import load_classifier

    arguments = ["--weights", weights, "-k", 3, "--batch-size", 2, *files]
    told = json.loads(succeed(capsys, main, *arguments, "--json"))
    text = succeed(capsys, main, *arguments).splitlines()

    transform = load_classifier(weights).preprocessing.transform()
    images = np.stack([transform(Image.open(file)) for file in files])
    model = tiny_vit(golden("finetune_tiny"), True).eval()
    with flow.no_grad():
        logits = model(to_global(images))["prediction_scores"].numpy().astype(np.float64)
    expected = np.exp(logits) / np.exp(logits).sum(axis=1, keepdims=True)
    assert [item["image"] for item in told] == list(map(str, files))
    for i, item in enumerate(told):
        order = np.argsort(-expected[i])[:3]
        assert [p["index"] for p in item["predictions"]] == order.tolist()
        assert [p["class"] for p in item["predictions"]] == [CLASSES[j] for j in order]
        found = [p["probability"] for p in item["predictions"]]
        np.testing.assert_allclose(found, expected[i][order], rtol=1e-4)
        assert text[4 * i] == str(files[i])
        assert text[4 * i + 1] == f"{100 * expected[i][order[0]]:7.2f} %  {CLASSES[order[0]]}"


def test_classes_without_names(golden, files, tmp_path, capsys):
    path = write_weights(golden, "token", tmp_path / "vit.safetensors")
    arguments = ["--weights", path, "--num-heads", 4, files[0], "-k", 99]
    assert succeed(capsys, main, *arguments).count("%  class ") == 10
    names = tmp_path / "names.txt"
    names.write_text("\n".join(f"name{i}" for i in range(10)))
    assert "name3" in succeed(capsys, main, *arguments, "--classes", names)
    names.write_text("one\ntwo\n")
    assert "2 names, but" in refused(capsys, main, *arguments, "--classes", names)
    assert "--classes" in refused(capsys, main, *arguments, "--classes", tmp_path / "none")


def test_an_image_that_cannot_be_read(weights, files, tmp_path, capsys):
    bad = tmp_path / "bad.png"
    bad.write_text("no image")
    arguments = ["--weights", weights, files[0], bad, files[1]]
    assert str(bad) in refused(capsys, main, *arguments)
    told = json.loads(succeed(capsys, main, *arguments, "--on-error", "skip", "--json"))
    assert [item["predictions"] is None for item in told] == [False, True, False]


def test_names_of_any_bytes(golden, files, tmp_path):
    """A name on the disk that is no text, and classes that a terminal would take for commands."""
    classes = ["\x1b[2Jevil", "caf\xe9", *map(str, range(8))]
    weights = write_weights(golden, "mean", tmp_path / "vit", classes=classes)
    image = os.fsencode(tmp_path) + b"/\xff\n.jpg"
    shutil.copy(files[0], image)
    command = ["--weights", weights, "-k", 10, os.fsdecode(image)]
    for encoding, cafe in (("utf-8", "caf\xe9"), ("ascii", "caf\\xe9")):
        env = dict(environment(), PYTHONPATH=os.fspath(ROOT), PYTHONIOENCODING=f"{encoding}:strict")
        status, out, error = process.run("predict", *command, env=env, encoding="utf-8")
        assert (status, error) == (0, "")
        lines = out.split("\n")
        assert lines[0] == f"{tmp_path}/\\udcff .jpg" and len(lines) == 12
        names = {line.split("%  ")[1] for line in lines[1:11]}
        assert names == {"\\x1b[2Jevil", cafe, *map(str, range(8))}


def test_what_is_no_classifier(golden, files, tmp_path, capsys):
    path = write_weights(golden, "full", tmp_path / "full", decoder_num_heads=4)
    error = refused(capsys, main, "--weights", path, files[0])
    assert "an autoencoder without a classifier" in error and "mae_finetuned_vit_*.pth" in error
    error = refused(capsys, main, "--weights", path, files[0], "-k", 0)
    assert "-k: invalid whole number above 0 value: '0'" in error
    assert "such file" in refused(capsys, main, "--weights", tmp_path / "none", files[0])


def test_as_a_process(weights, files):
    status, out, error = process.run("predict", "--weights", weights, *files)
    assert (status, error) == (0, "") and out.count("%") == 15


def test_a_reader_that_went_away(weights, files):
    running = process.start("predict", "--weights", weights, *files)
    try:
        running.stdout.close()
        error = running.stderr.read()
        assert running.wait(timeout=300) == 141 and error == ""
    finally:
        running.kill()
        running.wait()
