"""Live comparison with torchvision's pipeline, where it is installed."""
import numpy as np
import pytest
from PIL import Image
from scipy.stats import ks_2samp

from projects.MAE.data import transforms as ours
from projects.MAE.data.image_folder import ImageFolder

torch = pytest.importorskip("torch")
theirs = pytest.importorskip("torchvision.transforms")
datasets = pytest.importorskip("torchvision.datasets")
pytestmark = pytest.mark.oracle

BICUBIC = theirs.InterpolationMode.BICUBIC
NORMALIZE = [theirs.ToTensor(), theirs.Normalize(ours.IMAGENET_MEAN, ours.IMAGENET_STD)]


@pytest.fixture(scope="module")
def photos(tmp_path_factory):
    """JPEG files of several sizes and one grey one, in the ImageNet layout."""
    root = tmp_path_factory.mktemp("photos")
    folder = root / "train" / "a"
    folder.mkdir(parents=True)
    rng = np.random.default_rng(0)
    for i, size in enumerate([(500, 400), (375, 500), (256, 256), (700, 90), (60, 80)]):
        coarse = rng.integers(0, 256, (12, 16, 3), dtype=np.uint8)
        image = Image.fromarray(coarse).resize(size, Image.BICUBIC)
        (image.convert("L") if i == 2 else image).save(folder / f"{i}.jpg", quality=90)
    return root


def pairs(root):
    """(our image, torchvision's image) of each file."""
    images, reference = ImageFolder(root), datasets.ImageFolder(root / "train")
    assert [str(images.path(i)) for i in range(len(images))] == [p for p, _ in reference.samples]
    return [(images.load(i), reference[i][0]) for i in range(len(images))]


def test_crops_give_the_same_pixels(photos):
    for seed, (image, reference) in enumerate(pairs(photos)):
        crop = ours.RandomResizedCrop(224, scale=(0.2, 1.0))
        left, top, right, bottom = crop.sample_box(*image.size, np.random.default_rng(seed))
        found = ours.ToArray()(crop(image, np.random.default_rng(seed)))
        cropped = theirs.functional.resized_crop(
            reference, top, left, bottom - top, right - left, (224, 224), BICUBIC
        )
        expected = theirs.Compose(NORMALIZE)(cropped).numpy()
        # A step of 8 bits is 0.017: the pixels are the same, and float32 rounds.
        np.testing.assert_allclose(found, expected, rtol=0, atol=1e-6)


def test_evaluation_gives_the_same_pixels(photos):
    evaluation = ours.Compose([ours.Resize(224, 0.875), ours.CenterCrop(224), ours.ToArray()])
    reference = theirs.Compose([theirs.Resize(256, BICUBIC), theirs.CenterCrop(224), *NORMALIZE])
    for image, same in pairs(photos):
        np.testing.assert_allclose(evaluation(image, None), reference(same).numpy(), atol=1e-6)


@pytest.mark.parametrize("size", [(500, 400), (400, 500), (224, 224), (900, 300), (1000, 90)])
@pytest.mark.parametrize("scale", [(0.2, 1.0), (0.08, 1.0)])
def test_crops_have_the_same_distribution(size, scale):
    rng, draws = np.random.default_rng(0), 4000
    torch.manual_seed(0)
    blank = Image.new("L", size)
    crop = ours.RandomResizedCrop(224, scale=scale)
    found = np.array([crop.sample_box(*size, rng) for _ in range(draws)], float)
    found[:, 2:] -= found[:, :2]  # left, top, width, height
    draw = theirs.RandomResizedCrop.get_params  # top, left, height, width
    expected = np.array([draw(blank, scale, (3 / 4, 4 / 3)) for _ in range(draws)], float)
    expected = expected[:, [1, 0, 3, 2]]
    for which, (a, b) in enumerate(zip(statistics(found, size), statistics(expected, size))):
        assert ks_2samp(a, b).pvalue > 1e-3, which


def statistics(boxes, size):
    """Area, aspect ratio, and the place in either direction, of [n, (left, top, width, height)]."""
    left, top, width, height = boxes.T
    across, down = left + width / 2, top + height / 2
    return width * height / (size[0] * size[1]), width / height, across, down
