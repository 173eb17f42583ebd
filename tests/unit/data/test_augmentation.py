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
