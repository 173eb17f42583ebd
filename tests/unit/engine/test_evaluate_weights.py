"""An evaluation takes files as the weights were trained on them, as predict does, and says so."""
from types import SimpleNamespace

import numpy as np
import pytest
from PIL import Image

from projects.MAE.data.image_file import Reading
from projects.MAE.data.survey import reading_of
from projects.MAE.engine.evaluate_weights import prepared_for
from projects.MAE.engine.trainer import test_loaders as loaders_of
from projects.MAE.evaluation.knn import build_loaders
from projects.MAE.settings.load import load_config, save_config
from tests.support.command import CONFIGS, ROOT
from tests.support.images import encode, pixels, write

RECIPE = str(ROOT / CONFIGS / "quickstart_finetune.py")
NARROW = pixels(channels=1, dtype=np.uint16) >> 4


@pytest.fixture
def settings(tmp_path):
    """Overrides for a folder of an image that its EXIF data turns, and one of 12 bits in 16."""
    exif = Image.Exif()
    exif[0x0112] = 3
    for split in ("train", "val"):
        write(tmp_path, f"{split}/a/turned.png", encode(pixels(), "PNG", exif=exif))
        write(tmp_path, f"{split}/b/narrow.png", encode(Image.fromarray(NARROW), "PNG"))
    workers = [f"dataloader.{place}.num_workers=0" for place in ("train", "test.0")]
    sizes = ["model.num_classes=2", "train.knn.k=1"]
    return [f"dataloader.train.dataset.0.root={tmp_path}", *sizes, *workers]


def images_of(loader):
    (batch,) = loader
    return batch.get_fields()["images"].tensor.numpy()[:2]


TOLD = dict(exif="ignore", bits=12)


def test_files_are_read_as_the_weights_say(settings, caplog):
    def loader(*overrides, **card):
        cfg = load_config(RECIPE, [*settings, *overrides])
        (first,) = loaders_of(cfg)
        prepared = prepared_for(first, card, cfg, "W")
        return cfg, first, prepared

    expected = images_of(loader("data.exif=ignore", "data.bits=12")[1])
    cfg, first, prepared = loader(**TOLD)
    said = "W was trained with data.exif=ignore data.bits=12, the configuration has data.exif=apply"
    assert said in caplog.text
    np.testing.assert_array_equal(images_of(prepared), expected)
    assert (np.abs(images_of(first) - expected).max(axis=(1, 2, 3)) > 0.1).all()
    for one in build_loaders(cfg, prepared):  # of --knn
        np.testing.assert_array_equal(images_of(one), expected)
    recipe = "train.evaluation.preprocessing=recipe"
    np.testing.assert_array_equal(images_of(loader(recipe, **TOLD)[2]), images_of(first))
    # Bits that are set tell of these files, not of those of the weights.
    _, first, prepared = loader("data.bits=12", exif="apply", bits=16)
    assert prepared is first and prepared.dataset.images.reading == Reading("apply", 12)
    assert loader()[1].dataset.images.reading == Reading()


OWN = """from projects.MAE.configs.quickstart_finetune import *

data.exif = "apply"
"""
PLAIN = """from projects.MAE.configs.quickstart_finetune import *

data = dict(exif="apply", mean=data.mean, std=data.std)
"""


@pytest.mark.parametrize(
    "recipe, overrides, card, expected",
    [
        (RECIPE, [], {}, "ignore"),
        (str(ROOT / CONFIGS / "mae_finetune.py"), ["model.img_size=24"], {}, "ignore"),
        (RECIPE, ["data.exif=apply"], {}, "apply"),
        (OWN, [], {}, "apply"),
        (PLAIN, [], {}, "apply"),
        (RECIPE, ["train.evaluation.preprocessing=recipe"], {}, "apply"),
        (RECIPE, [], {"exif": "apply"}, "apply"),
    ],
)
def test_of_weights_that_say_nothing_of_exif(
    settings, tmp_path, caplog, recipe, overrides, card, expected
):
    """As predict: images as stored, unless the user has set data.exif. No recipe's counts."""
    if recipe in (OWN, PLAIN):
        (tmp_path / "own.py").write_text(recipe)
        recipe = str(tmp_path / "own.py")
    cfg = load_config(recipe, [*settings, *overrides])
    (first,) = loaders_of(cfg)
    with caplog.at_level("INFO"):
        found = prepared_for(first, card, cfg, "W").dataset.images.reading
    assert found.exif == expected
    said = f"W does not say what was done about EXIF rotations: data.exif={expected} is taken"
    assert (said in caplog.text) == (not card) and "was trained with" not in caplog.text
    if expected == "ignore":  # and predict, on the same weights
        assert found.exif == reading_of(SimpleNamespace(facts=card)).exif


def test_a_saved_configuration_evaluates_as_the_one_that_it_was(settings, tmp_path):
    for overrides, expected in ([], None), (["data.exif=apply"], "apply"):
        save_config(load_config(RECIPE, [*settings, *overrides]), str(tmp_path / "evaluation.yaml"))
        again = load_config(str(tmp_path / "evaluation.yaml"))
        assert again.train.evaluation.exif == expected and again.data.exif == "apply"
