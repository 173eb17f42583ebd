"""Live comparison with what transformers and timm do to images, where they are installed."""
import json

import numpy as np
import pytest
from PIL import Image

from projects.MAE.data.preprocessing import Preprocessing, told_preprocessing
from projects.MAE.weights.folder_config import make_processor, read_processor, read_timm
from projects.MAE.weights.source import preprocessing_of, read_source

transformers = pytest.importorskip("transformers")
timm = pytest.importorskip("timm")
torch = pytest.importorskip("torch")
pytestmark = pytest.mark.oracle
# Where an odd number of pixels is cropped, transformers and torchvision round to different sides.
SIZES = [(64, 48), (32, 32), (40, 100)]


def pictures():
    rng = np.random.default_rng(0)
    return [Image.fromarray(rng.integers(0, 256, (h, w, 3), dtype=np.uint8)) for w, h in SIZES]


def assert_same(theirs, preprocessing):
    ours = preprocessing.transform()
    for image in pictures():
        np.testing.assert_allclose(ours(image), theirs(image), rtol=0, atol=1e-5)


def as_transformers(processor):
    return lambda image: processor(image, return_tensors="np")["pixel_values"][0]


def processors():
    square, crop = {"height": 32, "width": 32}, {"height": 32, "width": 32}
    cropped = dict(do_center_crop=True, crop_size=crop)
    yield transformers.ViTImageProcessor(size=square)
    yield transformers.ViTImageProcessor(size=square, do_normalize=False, resample=3)
    yield transformers.ViTImageProcessor(size=square, do_rescale=False, image_mean=[120.0] * 3)
    yield transformers.ViTImageProcessor(size=square, rescale_factor=1 / 127.5)
    yield transformers.DeiTImageProcessor(size={"height": 40, "width": 36}, **cropped)
    yield transformers.CLIPImageProcessor(size={"shortest_edge": 36}, **cropped)
    yield transformers.BitImageProcessor(size={"shortest_edge": 40}, resample=2, **cropped)
    yield transformers.ConvNextImageProcessor(size={"shortest_edge": 32})


@pytest.mark.parametrize("number", range(8))
def test_what_a_processor_of_transformers_says(number, tmp_path):
    processor = list(processors())[number]
    processor.save_pretrained(tmp_path)
    path = tmp_path / "preprocessor_config.json"
    told = read_processor(json.loads(path.read_text()), path)["preprocessing"]
    assert_same(as_transformers(processor), told_preprocessing(told, 32))


@pytest.mark.parametrize(
    "preprocessing",
    [
        Preprocessing(36, 32, (0.1, 0.2, 0.3), (0.25, 0.3, 0.2)),
        Preprocessing((32, 32), 32, (0.5,) * 3, (0.5,) * 3, "bilinear"),
        Preprocessing((40, 36), 32, (0.0,) * 3, (1.0,) * 3, "lanczos"),
    ],
)
def test_transformers_reads_what_is_written(preprocessing, tmp_path):
    (tmp_path / "preprocessor_config.json").write_text(json.dumps(make_processor(preprocessing)))
    theirs = transformers.AutoImageProcessor.from_pretrained(tmp_path)
    assert_same(as_transformers(theirs), preprocessing)


@pytest.mark.parametrize("mode", ["center", "squash"])
@pytest.mark.parametrize("interpolation", ["bilinear", "bicubic"])
def test_what_timm_says(mode, interpolation):
    images = dict(mean=(0.5,) * 3, std=(0.25,) * 3, crop_pct=0.8, input_size=[3, 32, 32])
    images.update(crop_mode=mode, interpolation=interpolation)
    theirs = timm.data.create_transform(**timm.data.resolve_data_config(pretrained_cfg=images))
    config = json.loads(json.dumps(dict(architecture="vit_tiny_patch16_224", pretrained_cfg=images)))
    told = read_timm(config, {}, "test")["preprocessing"]
    assert_same(lambda image: theirs(image).numpy(), told_preprocessing(told, 32))


def test_a_folder_that_timm_writes(tmp_path):
    sizes = dict(img_size=32, patch_size=8, embed_dim=32, depth=2, num_heads=8, num_classes=5)
    model = timm.create_model(
        "vit_tiny_patch16_224", **sizes, global_pool="avg", pretrained_cfg_overlay=dict(input_size=(3, 32, 32))
    )
    args = {key: value for key, value in sizes.items() if key != "num_classes"}
    timm.models.save_for_hf(model, tmp_path, model_args=args, safe_serialization=True)
    found = read_source(tmp_path)
    assert found.facts["num_heads"] == 8 and found.sizes.num_classes == 5 and found.sizes.global_pool
    theirs = timm.data.create_transform(**timm.data.resolve_model_data_config(model))
    assert_same(lambda image: theirs(image).numpy(), preprocessing_of(found)[0])
