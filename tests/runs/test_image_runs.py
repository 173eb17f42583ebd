"""Whole runs on unlabelled folders, and on images that can't be read."""
import json

import numpy as np
import pytest

from tests.support.command import TINY, TINY_DECODER, pretrain, train
from tests.support.images import encode, pixels, write
from tests.support.runs import losses, metrics
from tests.runs.test_bad_input import ROOT_KEY, assert_one_error

SKIP = "data.on_error=skip"


@pytest.fixture(scope="module")
def unlabelled(tmp_path_factory):
    """20 images at any depth to train, 3 of them bad, and 5 loose ones to validate, 1 of them bad."""
    root = tmp_path_factory.mktemp("unlabelled")
    for i in range(20):
        name = f"train/{'deep/' * (i % 3)}{i:02d}"
        write(root, f"{name}.jpg", encode(pixels(30, 40, seed=i), "JPEG"))
    for i in range(5):
        write(root, f"val/{i}.webp", encode(pixels(30, 40, seed=i), "WEBP"))
    write(root, "train/deep/01.jpg", b"")
    write(root, "train/deep/deep/05.jpg", encode(pixels(30, 40), "JPEG")[:300])
    write(root, "train/06.jpg", b"text")
    write(root, "val/4.webp", b"")
    return root


def lines_with(text, output):
    return [line for line in output.splitlines() if text in line]


def test_bad_images_are_skipped_on_any_layout(unlabelled, tmp_path):
    settings = [SKIP, "train.train_iter=6"]
    outputs = [
        pretrain(unlabelled, tmp_path / str(ranks), *settings, ranks=ranks) for ranks in (1, 2)
    ]
    for output in outputs:
        (last,) = [line for line in lines_with("3 of 20 images", output)][-1:]
        for name in ("deep/01.jpg", "deep/deep/05.jpg", "06.jpg"):
            assert name in last
        (left_out,) = lines_with("1 of 5 images can't be read", output)
        assert "val/4.webp" in left_out and "Traceback" not in output
    assert lines_with("Skipped", outputs[0]) and "06.jpg: it is not an image" in outputs[0]
    first, second = tmp_path / "1", tmp_path / "2"
    assert len(losses(first)) == 6
    np.testing.assert_allclose(losses(second), losses(first), rtol=1e-5)
    means = [line["reconstruction_loss"] for f in (first, second) for line in metrics(f)[-1:]]
    assert means[0] == pytest.approx(means[1], rel=1e-5)
    # What is left out counts for nothing: the mean is that of a folder without it.
    clean = tmp_path / "clean"
    for i in range(4):
        write(clean, f"val/{i}.webp", (unlabelled / f"val/{i}.webp").read_bytes())
    pretrain(clean, tmp_path / "evaluation", f"train.load_weight={first}", "--eval-only")
    found = json.loads((tmp_path / "evaluation" / "evaluation.json").read_text())
    assert found["reconstruction_loss"] == pytest.approx(means[0], rel=1e-5)


def refused(config, data, output, *settings):
    decoder = TINY_DECODER if "pretraining" in config else []
    keys = [f"{ROOT_KEY}={data}", f"train.output_dir={output}"]
    return train(config, *TINY, *decoder, *keys, *settings)


def test_errors_are_one_line(unlabelled, tmp_path):
    result = refused("quickstart_pretraining.py", unlabelled, tmp_path)
    assert_one_error(result, "cannot read the image", "data.on_error=skip")
    result = refused("quickstart_finetune.py", unlabelled, tmp_path, "finetune.enable=False")
    assert_one_error(result, "has no class folders", "images without classes are for pretraining")
    result = refused("quickstart_pretraining.py", unlabelled / "train", tmp_path, SKIP)
    assert_one_error(result, "no folder val/", "train.evaluation.enabled=False")
    result = refused("quickstart_pretraining.py", unlabelled, tmp_path, "data.on_error=no")
    assert_one_error(result, "data.on_error=no must be raise or skip")
