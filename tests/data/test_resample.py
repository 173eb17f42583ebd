"""The C functions give what Pillow and NumPy give, and are not needed."""
import os
import shutil
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from projects.MAE.data import resample
from projects.MAE.data.cache import cache_folder
from projects.MAE.data.transforms import IMAGENET_MEAN, IMAGENET_STD, ToArray

COMPILERS = [os.environ["CC"]] if "CC" in os.environ else ["cc", "gcc", "clang"]
COMPILER, NO_COMPILER = any(map(shutil.which, COMPILERS)), "there is no C compiler"
needs_compiler = pytest.mark.skipif(not COMPILER, reason=NO_COMPILER)


def picture(width, height, seed=0):
    """Noise with hard edges: the cubic kernel overshoots there, and values are clipped."""
    rng = np.random.default_rng(seed)
    pixels = rng.integers(0, 256, (height, width, 3), dtype=np.uint8)
    pixels[: height // 2, : width // 2] = 255 * (pixels[: height // 2, : width // 2] > 127)
    return Image.fromarray(pixels)


@pytest.fixture(params=["C", "C, older Pillow", "Pillow"])
def way(request, monkeypatch):
    """Each way to the same pixels."""
    if request.param == "Pillow":
        monkeypatch.setattr(resample, "_kernel", lambda: None)
        return
    if not COMPILER:
        pytest.skip(NO_COMPILER)
    if "avx2" not in Path("/proc/cpuinfo").read_text():
        pytest.skip("the processor has no AVX2")
    assert resample.prepare()
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


@pytest.fixture
def caches(monkeypatch, tmp_path):
    """A folder of caches that holds nothing."""
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    return tmp_path / "mae-oneflow"


def load_anew():
    return resample._kernel.__wrapped__()


@pytest.mark.parametrize("compiler", ["false", "no-such-compiler"])
def test_without_a_compiler_pillow_does_the_work(caches, monkeypatch, compiler):
    monkeypatch.setenv("CC", compiler)
    assert load_anew() is None
    assert os.listdir(caches) == []


def test_what_disagrees_with_pillow_is_not_used(caches, monkeypatch):
    monkeypatch.setattr(resample, "_agrees", lambda kernel: False)
    assert load_anew() is None


@needs_compiler
def test_compiled_once(caches, monkeypatch):
    first = load_anew()
    monkeypatch.setenv("CC", "false")
    assert (load_anew() is None) == (first is None)
    assert len(os.listdir(caches)) == 1


@needs_compiler
def test_a_damaged_file_is_compiled_anew(caches, monkeypatch):
    expected = load_anew() is None
    (name,) = os.listdir(caches)
    monkeypatch.setenv("XDG_CACHE_HOME", str(caches.parent / "others"))
    path = caches.parent / "others" / "mae-oneflow" / name
    path.parent.mkdir(parents=True)
    path.write_bytes(b"damaged")
    assert (load_anew() is None) == expected and path.stat().st_size > 1000


@needs_compiler
def test_compiled_for_oneself_where_no_cache_can_be(caches, monkeypatch):
    expected = load_anew() is None
    monkeypatch.setenv("XDG_CACHE_HOME", "/dev/null")
    assert cache_folder() is None and (load_anew() is None) == expected


def test_a_folder_that_others_can_write_to_is_no_cache(caches):
    assert cache_folder() == str(caches)
    caches.chmod(0o777)
    assert cache_folder() is None
