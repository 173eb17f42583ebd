"""An evaluation takes files as the weights were trained on them, as predict does, and says so."""
import numpy as np
import pytest
from PIL import Image

from projects.MAE.data.image_file import Reading
from projects.MAE.engine.evaluate_weights import prepared_for
from projects.MAE.engine.trainer import test_loaders as loaders_of
from projects.MAE.evaluation.knn import build_loaders
from projects.MAE.settings.load import load_config
from tests.support.command import CONFIGS, ROOT
from tests.support.images import encode, pixels, write

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
        cfg = load_config(str(ROOT / CONFIGS / "quickstart_finetune.py"), [*settings, *overrides])
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
