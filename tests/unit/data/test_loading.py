"""Real image files through the real loader."""
import numpy as np
import pytest
from omegaconf import OmegaConf
from PIL import Image

from projects.MAE import digits
from projects.MAE.data.build import (
    build_image_test_loader,
    build_image_train_loader,
    check_sample,
    whole_dataset,
)
from projects.MAE.data.datasets import (
    ClassificationDataset,
    ConcatenatedDataset,
    PretrainingDataset,
)
from projects.MAE.data.fixed_samples import fixed_samples
from projects.MAE.data.image_folder import ImageFolder
from projects.MAE.data.mixup import Mixup
from projects.MAE.data.transforms import Compose, RandomResizedCrop, ToArray
from projects.MAE.digits import write_digits
from projects.MAE.engine.reconstruction_hook import pixels_of
from projects.MAE.errors import UserError
from tests.commands.process import refused, succeed


def transform():
    return Compose([RandomResizedCrop(16), ToArray()])


def batches(loader):
    return [{k: v.tensor.numpy() for k, v in b.get_fields().items()} for b in loader]


def pretraining(root, workers, start=0):
    data = PretrainingDataset(root, True, transform(), img_size=16, patch_size=4, seed=1)
    loader = build_image_train_loader(data, 8, start, 6, num_workers=workers, seed=1)
    return batches(loader)


def test_workers_and_resuming_change_nothing(image_folder):
    expected = pretraining(image_folder, workers=0)
    assert expected[0]["images"].shape == (8, 3, 16, 16)
    assert expected[0]["noise"].shape == (8, 16)
    for actual in (pretraining(image_folder, 2), expected[:2] + pretraining(image_folder, 1, 2)):
        for ours, theirs in zip(actual, expected):
            for field in theirs:
                np.testing.assert_array_equal(ours[field], theirs[field])


def test_samples_change_from_epoch_to_epoch(image_folder):
    # 30 training images: positions 0 to 29 and 30 to 47 are two epochs.
    noise = np.concatenate([batch["noise"] for batch in pretraining(image_folder, 0)])
    assert len(np.unique(noise.round(6), axis=0)) == len(noise)


def test_classification_batches(image_folder):
    data = ClassificationDataset(image_folder, True, transform(), depth=3, drop_path_rate=0.1)
    loader = build_image_train_loader(data, 6, 0, 1, num_workers=1, mixup=Mixup(num_classes=3))
    (batch,) = batches(loader)
    assert batch["labels"].shape == (6, 3) and batch["drop_path_noise"].shape == (6, 6)
    np.testing.assert_allclose(batch["labels"].sum(axis=1), 1, rtol=1e-5)


def test_training_images_evaluated_as_k_nn_does(image_folder):
    data = ClassificationDataset(image_folder, True, transform(), depth=3, drop_path_rate=0.1)
    first, *_ = batches(build_image_test_loader(data.evaluated_with(transform()), 4, num_workers=0))
    assert set(first) == {"images", "labels", "valid"}  # and no draws
    assert data.train and data.drop_path_draws == 6  # the data set itself is as it was


def test_evaluation_batches_mark_what_fills_up(image_folder):
    data = ClassificationDataset(image_folder, False, transform())
    loader = build_image_test_loader(data, 4, num_workers=0)
    found = batches(loader)
    valid = np.concatenate([batch["valid"] for batch in found])
    labels = np.concatenate([batch["labels"] for batch in found])
    np.testing.assert_array_equal(labels[valid == 1], [0, 0, 0, 1, 1, 1, 2, 2, 2])
    np.testing.assert_array_equal(labels[valid == 0], -1)


def test_odd_mixup_batch_is_an_error(image_folder):
    data = ClassificationDataset(image_folder, True, transform())
    loader = build_image_train_loader(data, 5, 0, 1, num_workers=0, mixup=Mixup(num_classes=3))
    with pytest.raises(UserError, match="even number"):
        batches(loader)


def test_image_modes_become_rgb(tmp_path):
    folder = tmp_path / "train" / "a"
    folder.mkdir(parents=True)
    for mode in ("L", "LA", "P", "RGBA", "CMYK", "1", "I;16"):
        extension = "jpg" if mode == "CMYK" else "png"
        Image.new(mode, (5, 4)).save(folder / f"{mode.replace(';', '_')}.{extension}")
    images = ImageFolder(tmp_path, train=True)
    assert len(images) == 7
    for index in range(7):
        assert images.load(index).mode == "RGB"


def test_classes_are_sorted_names(tmp_path):
    for name in ("b", "a", "c", ".hidden"):
        (tmp_path / "train" / name / "deep").mkdir(parents=True)
        Image.new("RGB", (2, 2)).save(tmp_path / "train" / name / "deep" / "x.PNG")
    assert ImageFolder(tmp_path).classes == ["a", "b", "c"]


def test_digits(tmp_path):
    assert write_digits(str(tmp_path / "digits")) == {"train": 1437, "val": 360}
    train, val = (ImageFolder(tmp_path / "digits", train) for train in (True, False))
    assert train.classes == val.classes == [str(digit) for digit in range(10)]
    assert (np.bincount(val.labels) >= 34).all()  # stratified
    assert val.load(0).size == (8, 8)
    assert write_digits(str(tmp_path / "digits")) == {}  # once


def test_the_command_that_writes_digits(tmp_path, capsys):
    folder = tmp_path / "new" / "digits"
    folder.mkdir(parents=True)  # an empty one is filled
    assert "Wrote 1437 training and 360 validation images" in succeed(capsys, digits.main, folder)
    before = sorted(path.name for path in tmp_path.rglob("*"))
    assert succeed(capsys, digits.main, folder) == f"{folder} is there already\n"
    file = tmp_path / "file"
    file.write_text("mine")
    assert f"DIR {file}: is no folder" in refused(capsys, digits.main, file)
    assert "is no folder, or lies in none" in refused(capsys, digits.main, file / "digits")
    error = refused(capsys, digits.main, tmp_path / ("n" * 300))
    assert "File name too long" in error and file.read_text() == "mine"
    assert sorted(path.name for path in tmp_path.rglob("*")) == sorted([*before, "file"])


class Own:
    """A data set of a user's own, without files; fields of its sample that a test changes."""

    classes = ["a", "b"]

    def __init__(self, **changes):
        images = np.zeros((4, 8, 8), np.float32)
        self.sample = dict(images=images, labels=np.uint8(1))
        self.sample.update(changes)

    def __len__(self):
        return 6

    def __getitem__(self, key):
        return {name: value for name, value in self.sample.items() if value is not None}


def unlabelled(**changes):
    return Own(**{**dict(labels=None, noise=np.zeros(4, np.float32)), **changes})


MODEL = OmegaConf.create(dict(img_size=8, patch_size=4, in_chans=4, depth=2, drop_path_rate=0.1))
DRAWS = np.zeros(4, np.float32)


def test_a_data_set_of_ones_own_is_evaluated_without_its_help():
    check_sample(Own(drop_path_noise=DRAWS), MODEL, has_labels=True, trains=True)
    pair = ConcatenatedDataset([unlabelled(), unlabelled()])
    check_sample(pair, MODEL, has_labels=False, trains=False)
    (batch, last) = build_image_test_loader(Own(), 4, num_workers=0)
    fields = last.get_fields()
    assert fields["valid"].tensor.numpy().tolist() == [1, 1, 0, 0]
    assert fields["labels"].tensor.numpy().tolist() == [1, 1, -1, -1]
    found = fixed_samples(unlabelled(), 2)
    assert found.labels == ["sample 0", "sample 3"] and found.images.shape == (2, 4, 8, 8)
    pixels = pixels_of(Own(), found.images)(found.images)
    assert pixels.shape == (2, 8, 8, 3) and pixels.dtype == np.uint8


@pytest.mark.parametrize(
    "changes, labels, said",
    [
        (dict(images=None), True, "has no 'images': add it, float32 \\[4, 8, 8\\]"),
        (dict(images=np.zeros((4, 8, 8))), True, "'images' is float64 .*takes float32"),
        (dict(images=np.zeros((3, 8, 8), np.float32)), True, "float32 \\[3, 8, 8\\], but this model"),
        (dict(labels=None), True, "has no 'labels'"),
        (dict(labels=0.5), True, "'labels' is float64 \\[\\], but .* takes int64"),
        (dict(noise=None), False, "has no 'noise': add it, float32 \\[4\\]"),
        (dict(), True, "has no 'drop_path_noise': add it, float32 \\[4\\]"),
        (dict(drop_path_noise=DRAWS, labels=np.int64(2)), True, "has the label 2, but 2 classes"),
        (dict(drop_path_noise=DRAWS, labels=np.int64(-1)), True, "has the label -1, but 2 classes"),
        (dict(drop_path_noise=DRAWS, path=DRAWS), True, "has 'path', which this model does not take"),
        (dict(drop_path_noise=DRAWS, valid=True), True, "has 'valid', which this model does not take"),
        (dict(labels=np.int64(1)), False, "'labels', which this model does not take: leave"),
    ],
)
def test_what_a_data_set_of_ones_own_lacks(changes, labels, said):
    with pytest.raises(UserError, match=said):
        check_sample((Own if labels else unlabelled)(**changes), MODEL, labels, trains=labels)


class Odd(Own):
    """One that is of another kind from sample 4 on."""

    def __init__(self, **later):
        super().__init__()
        self.later = later

    def __getitem__(self, key):
        found = {**self.sample, **(self.later if key.index > 3 else {})}
        return {name: value for name, value in found.items() if value is not None}


@pytest.mark.parametrize(
    "later, said",
    [
        (dict(labels=np.int64(2)), "sample 4 of the data set Odd has the label 2, but 2 classes"),
        (dict(labels=None), "samples of one batch differ: .*labels int64"),
        (dict(labels=0.5), "samples of one batch differ"),
        (dict(images=np.ones((1, 8, 8), np.float32)), "float32 \\[4, 8, 8\\].*float32 \\[1, 8, 8\\]"),
    ],
)
def test_a_sample_that_is_not_like_the_first_is_not_made_fit(later, said):
    with pytest.raises(UserError, match=said):
        batches(build_image_test_loader(Odd(**later), 3, num_workers=0))


def test_what_is_no_list_or_no_length_is_told():
    class Sized(Own):
        def __len__(self):
            return self.size

    data = Sized(drop_path_noise=DRAWS)
    for data.size in (6.0, -1, None):
        with pytest.raises(UserError, match="len\\(\\) of the data set Sized raised"):
            whole_dataset([data])
    data.size = 6
    for data.classes in (3, "ab", Own.__len__):
        with pytest.raises(UserError, match="the data set Sized: classes is .*: make it a list"):
            check_sample(data, MODEL, has_labels=True, trains=True)
    for data.classes in (("a", "b"), np.array(["a", "b"])):
        check_sample(data, MODEL, has_labels=True, trains=True)


def test_a_classifier_needs_names_of_classes():
    data = Own(drop_path_noise=DRAWS)
    data.classes = []
    with pytest.raises(UserError, match="Own has no attribute classes"):
        check_sample(data, MODEL, has_labels=True, trains=True)
