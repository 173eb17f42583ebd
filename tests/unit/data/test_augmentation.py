"""The transforms and mixup: shapes, ranges, statistics, and no hidden state."""
import numpy as np
import pytest
from PIL import Image

from projects.MAE.data.mixup import Mixup, smooth_one_hot
from projects.MAE.data.rand_augment import OPERATIONS, RandAugment
from projects.MAE.data.random_erasing import RandomErasing
from projects.MAE.data.transforms import (
    IMAGENET_MEAN,
    IMAGENET_STD,
    CenterCrop,
    ColorJitter,
    RandomHorizontalFlip,
    RandomResizedCrop,
    Resize,
    ToArray,
)


def rng(seed=0):
    return np.random.default_rng(seed)


@pytest.fixture
def image():
    return Image.fromarray(rng().integers(0, 256, (60, 90, 3), dtype=np.uint8))


def test_to_array_normalises(image):
    expected = (np.asarray(image) / 255 - IMAGENET_MEAN) / IMAGENET_STD
    np.testing.assert_allclose(ToArray()(image), expected.transpose(2, 0, 1), atol=1e-5)


@pytest.mark.parametrize("size", [(90, 60), (60, 90), (300, 4), (4, 300), (1, 1)])
def test_crops_stay_inside_and_have_the_size(size):
    image, crop = Image.new("RGB", size), RandomResizedCrop(24)
    for seed in range(50):
        left, top, right, bottom = crop.sample_box(*size, rng(seed))
        assert 0 <= left < right <= size[0] and 0 <= top < bottom <= size[1]
    assert crop(image, rng()).size == (24, 24)


def test_crop_areas_follow_their_scale():
    crop = RandomResizedCrop(24, scale=(0.2, 1.0))
    areas = []
    for seed in range(2000):
        left, top, right, bottom = crop.sample_box(500, 500, rng(seed))
        areas.append((right - left) * (bottom - top) / 250_000)
    assert min(areas) > 0.19 and 0.5 < np.mean(areas) < 0.6


def test_evaluation_takes_the_centre(image):
    resized = Resize(24, crop_ratio=0.75)(image)
    assert resized.size == (48, 32)
    assert CenterCrop(24)(resized).size == (24, 24)
    box = CenterCrop(30)(image)
    np.testing.assert_array_equal(np.asarray(box), np.asarray(image)[15:45, 30:60])


def test_flip_mirrors_half_of_the_time(image):
    flip = RandomHorizontalFlip(0.5)
    flipped = [np.asarray(flip(image, rng(seed))) for seed in range(200)]
    mirrored = [np.array_equal(f, np.asarray(image)[:, ::-1]) for f in flipped]
    assert 70 < sum(mirrored) < 130
    assert all(m or np.array_equal(f, np.asarray(image)) for m, f in zip(mirrored, flipped))


@pytest.mark.parametrize("operation", OPERATIONS, ids=lambda operation: operation.__name__)
def test_rand_augment_operations_keep_size_and_mode(image, operation):
    for level in (0.0, 0.9, 1.0):
        result = operation(image, level, (1, 2, 3), rng())
        assert result.size == image.size and result.mode == "RGB"


def test_rand_augment_depends_on_its_generator_alone(image):
    augment = RandAugment()
    first, again = (np.asarray(augment(image, rng(5))) for _ in range(2))
    np.testing.assert_array_equal(first, again)
    results = {np.asarray(augment(image, rng(seed))).tobytes() for seed in range(20)}
    assert len(results) > 5


def test_random_erasing_erases_its_share():
    erased = [RandomErasing(1.0)(np.zeros((3, 40, 40), np.float32), rng(s)) for s in range(100)]
    shares = [np.mean(array != 0) for array in erased]
    assert 0.01 < min(shares) and max(shares) < 0.36
    untouched = [RandomErasing(0.25)(np.zeros((3, 8, 8), np.float32), rng(s)) for s in range(400)]
    assert 60 < sum(bool(array.any()) for array in untouched) < 140


def test_smoothed_targets_sum_to_one():
    targets = smooth_one_hot(np.array([0, 2]), 4, 0.1)
    np.testing.assert_allclose(targets.sum(axis=1), 1, rtol=1e-6)
    np.testing.assert_allclose(targets[1], [0.025, 0.025, 0.925, 0.025], rtol=1e-6)


def constant_pairs(pairs, size=16):
    """Images of one value each, 0 and 1 in every pair, with labels 0 and 1."""
    images = np.zeros((2 * pairs, 3, size, size), np.float32)
    images[1::2] = 1
    return images, np.array([0, 1] * pairs)


@pytest.mark.parametrize("cutmix", [0.0, 1.0])
def test_targets_are_the_share_of_pixels(cutmix):
    images, labels = constant_pairs(64)
    mixup = Mixup(mixup_alpha=0.8 * (1 - cutmix), cutmix_alpha=cutmix, label_smoothing=0, num_classes=2)
    mixed, targets = mixup(images, labels, [rng(seed) for seed in range(64)])
    np.testing.assert_allclose(mixed.mean(axis=(1, 2, 3)), targets[:, 1], atol=1e-5)
    shares = targets[::2, 1]
    assert len(np.unique(shares)) > 30  # every pair has a lambda of its own
    assert set(np.unique(mixed)) <= {0, 1} if cutmix else len(np.unique(mixed)) > 60


def test_a_pair_is_mixed_alike_in_any_batch():
    mixup = Mixup(num_classes=2)
    images, labels = constant_pairs(4)
    whole, _ = mixup(images.copy(), labels, [rng(seed) for seed in range(4)])
    half, _ = mixup(images[4:].copy(), labels[4:], [rng(seed) for seed in (2, 3)])
    np.testing.assert_array_equal(whole[4:], half)


@pytest.mark.parametrize("size", [(90, 60), (60, 90), (300, 4), (4, 300), (1, 1)])
def test_a_clamped_crop_is_one_draw(size):
    """The authors' util/crop.py: no retries; a side that is too long is cut, not drawn anew."""
    width, height = size
    crop, cut = RandomResizedCrop(24, scale=(0.08, 1.0), clamp=True), 0
    for seed in range(200):
        draws = rng(seed)
        area = width * height * draws.uniform(0.08, 1.0)
        ratio = np.exp(draws.uniform(np.log(3 / 4), np.log(4 / 3)))
        w, h = round(np.sqrt(area * ratio)), round(np.sqrt(area / ratio))
        cut += w > width or h > height
        w, h = min(max(w, 1), width), min(max(h, 1), height)
        left, top = draws.integers(0, width - w + 1), draws.integers(0, height - h + 1)
        assert crop.sample_box(*size, rng(seed)) == (left, top, left + w, top + h)
    assert cut or size == (1, 1)
    assert crop(Image.new("RGB", size), rng()).size == (24, 24)


def test_color_jitter_changes_by_factors_of_a_range():
    grey = Image.new("RGB", (4, 4), (100, 100, 100))
    bright = [np.asarray(ColorJitter(brightness=0.4)(grey, rng(s)))[0, 0, 0] for s in range(300)]
    assert 59 <= min(bright) < 65 and 135 < max(bright) <= 140 and abs(np.mean(bright) - 100) < 3
    noise = Image.fromarray(rng().integers(0, 256, (8, 8, 3), dtype=np.uint8))
    assert ColorJitter()(noise, rng()) is noise
    jitter = ColorJitter(0.4, 0.4, 0.4)
    first, again = (np.asarray(jitter(noise, rng(5))) for _ in range(2))
    np.testing.assert_array_equal(first, again)
    assert len({np.asarray(jitter(noise, rng(s))).tobytes() for s in range(20)}) == 20
    without = np.asarray(ColorJitter(saturation=5.0)(noise, np.random.default_rng(3)))
    assert without.shape == (8, 8, 3)


@pytest.mark.parametrize("minmax", [(0.25, 0.75), (0.5, 0.5), (1.0, 1.0)])
def test_cutmix_boxes_of_a_range(minmax):
    """timm's rand_bbox_minmax: each side uniform in the range, the box whole inside the image."""
    images, labels = constant_pairs(200)
    mixup = Mixup(mixup_alpha=0, cutmix_alpha=0, cutmix_minmax=minmax, label_smoothing=0, num_classes=2)
    assert mixup.cutmix_alpha == 1.0
    mixed, targets = mixup(images, labels, [rng(seed) for seed in range(200)])
    np.testing.assert_allclose(mixed.mean(axis=(1, 2, 3)), targets[:, 1], atol=1e-5)
    sides = {len(np.unique(np.nonzero(x[0])[axis])) for x in mixed[::2] for axis in (0, 1)}
    least, most = (int(16 * share) for share in minmax)
    assert sides == set(range(least, max(most, least + 1)))
