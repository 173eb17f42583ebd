"""The C functions give what Pillow and NumPy give, and are not needed."""
import logging
import os
import shutil
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from projects.MAE.data import resample
from projects.MAE.data.transforms import IMAGENET_MEAN, IMAGENET_STD, ToArray
from tests.support.command import ROOT
from tests.support.needs import CXX


def picture(width, height, seed=0):
    """Noise with hard edges: the cubic kernel overshoots there, and values are clipped."""
    rng = np.random.default_rng(seed)
    pixels = rng.integers(0, 256, (height, width, 3), dtype=np.uint8)
    pixels[: height // 2, : width // 2] = 255 * (pixels[: height // 2, : width // 2] > 127)
    return Image.fromarray(pixels)


@pytest.fixture
def c_functions():
    """The C functions, loaded. Where they can be built and used, and were not, the test fails."""
    if shutil.which(CXX) is None:
        pytest.skip("there is no C++ compiler to build the library")
    if "avx2" not in Path("/proc/cpuinfo").read_text():
        pytest.skip("the processor has no AVX2")
    assert resample.prepare(), "the library was not built: see what tools/setup.sh says"


@pytest.fixture(params=["C", "C, older Pillow", "Pillow"])
def way(request, monkeypatch):
    """Each way to the same pixels."""
    if request.param == "Pillow":
        monkeypatch.setattr(resample, "_kernel", lambda: None)
        return
    request.getfixturevalue("c_functions")
    if request.param == "C, older Pillow":
        monkeypatch.delattr(Image.Image, "__arrow_c_array__", raising=False)


@pytest.mark.parametrize(
    "size, box, result",
    [
        ((500, 400), (31, 17, 420, 391), (224, 224)),
        ((500, 400), (0, 0, 500, 400), (224, 224)),
        ((500, 400), (490, 390, 500, 400), (224, 224)),
        ((500, 400), (0, 0, 1, 1), (24, 24)),
        ((224, 224), (0, 0, 224, 224), (224, 224)),
        ((301, 223), (1, 0, 225, 223), (224, 223)),
        ((3000, 41), (7, 1, 2999, 41), (16, 48)),
        ((41, 3000), (0, 5, 41, 2998), (23, 1)),
        ((33, 2000), (12, 104, 15, 673), (224, 224)),  # a strip more than 100 times as high as wide
        ((8, 8), (0, 0, 8, 8), (24, 24)),
        ((50, 40), (-3, -2, 47, 44), (20, 20)),  # outside the image is black
        ((40000, 2), (0, 0, 40000, 2), (10, 2)),  # longer than the C function takes
    ],
)
def test_resize_is_pillows_to_the_bit(way, size, box, result):
    image = picture(*size)
    expected = image.crop(box).resize(result, Image.BICUBIC)
    np.testing.assert_array_equal(np.asarray(resample.resize(image, result, box)), expected)


def test_random_crops_are_pillows_to_the_bit(way):
    image, rng = picture(180, 140), np.random.default_rng(1)
    for _ in range(100):
        left, right = np.sort(rng.choice(181, 2, replace=False)).tolist()
        top, bottom = np.sort(rng.choice(141, 2, replace=False)).tolist()
        box, size = (left, top, right, bottom), tuple(rng.integers(1, 100, 2).tolist())
        expected = image.crop(box).resize(size, Image.BICUBIC)
        np.testing.assert_array_equal(np.asarray(resample.resize(image, size, box)), expected)


@pytest.mark.parametrize("mode", ["L", "RGBA", "CMYK"])
def test_other_modes_stay_pillows(mode):
    image = picture(30, 20).convert(mode)
    expected = image.resize((7, 9), Image.BICUBIC)
    assert resample.resize(image, (7, 9)).tobytes() == expected.tobytes()


def test_to_array_is_the_same_number_for_number(way):
    image = picture(33, 21)
    mean, std = np.array(IMAGENET_MEAN), np.array(IMAGENET_STD)
    scale, bias = np.float32(1 / (255 * std)), np.float32(-mean / std)
    expected = (np.float32(image) * scale + bias).transpose(2, 0, 1)
    np.testing.assert_array_equal(ToArray()(image), expected)


def load_anew():
    return resample._kernel.__wrapped__()


@pytest.mark.parametrize("content, reason", [(None, "No such file"), (b"damaged", "too short")])
def test_without_the_library_pillow_does_the_work(
    monkeypatch, tmp_path, caplog, content, reason
):
    library = tmp_path / "library.so"
    if content is not None:
        library.write_bytes(content)
    monkeypatch.setattr(resample, "LIBRARY", str(library))
    with caplog.at_level(logging.INFO, "libai"):
        assert load_anew() is None
    assert "Pillow resizes images" in caplog.text and reason in caplog.text


def test_a_library_of_older_sources_is_not_used(monkeypatch):
    monkeypatch.setattr(resample, "LIBRARY", None)  # this program, which has no such functions
    assert load_anew() is None


@pytest.mark.usefixtures("c_functions")
def test_what_disagrees_with_pillow_is_not_used(monkeypatch):
    monkeypatch.setattr(resample, "_agrees", lambda kernel: False)
    assert load_anew() is None


@pytest.mark.usefixtures("c_functions")
def test_it_loads_without_oneflow_and_compiles_nothing(tmp_path):
    code = (
        "from projects.MAE.data import resample\n"
        "assert resample.prepare()\n"
        "assert 'liboneflow' not in open('/proc/self/maps').read()\n"
    )
    own = dict(XDG_CACHE_HOME=str(tmp_path), CC="false", CXX="false", LD_PRELOAD="")
    subprocess.run([sys.executable, "-c", code], env={**os.environ, **own}, check=True, cwd=ROOT)
    assert not list(tmp_path.iterdir())
