"""Classes of weights and of data are compared by name."""
import logging
from types import SimpleNamespace

import numpy as np
import pytest
from PIL import Image

from projects.MAE.checkpoint.card import columns_of
from projects.MAE.data.image_folder import ImageFolder
from projects.MAE.errors import UserError

CLASSES = ["cat", "dog", "owl"]


def columns(classes, found, subset=False):
    dataset = SimpleNamespace(classes=found)
    return columns_of(classes, dataset, subset, "weights")


def test_the_same_and_another_order():
    assert columns(CLASSES, CLASSES) is None
    assert columns(["owl", "cat", "dog"], CLASSES).tolist() == [1, 2, 0]


@pytest.mark.parametrize("subset", [False, True])
def test_other_names_are_refused_with_both_lists(subset):
    with pytest.raises(UserError) as error:
        columns(CLASSES, ["bee", "cat", "dog", "emu"], subset)
    assert str(error.value) == (
        "weights: it was trained on 3 classes, and SimpleNamespace has 4 class folders; without data: 1 (owl); "
        "unknown to it: 2 (bee, emu): evaluate on the class folders that it was trained on"
    )


def test_names_of_which_none_is_common():
    with pytest.raises(UserError, match="name the class folders as the weights do, or .*id2label"):
        columns(CLASSES, ["n01440764", "n01443537", "n01484850"])


def test_a_subset_is_asked_for():
    with pytest.raises(UserError, match=r"without data: 1 \(dog\): train.evaluation.classes=subset"):
        columns(CLASSES, ["cat", "owl"])
    np.testing.assert_array_equal(columns(CLASSES, ["cat", "owl"], subset=True), [0, 2])


def test_a_name_of_two_classes_and_long_lists():
    with pytest.raises(UserError, match="a name stands for two classes"):
        columns(["crane", "crane", "dog"], ["crane", "dog"], subset=True)
    with pytest.raises(UserError, match=r"without data: 99 \(01, 02, .*, 10, \.\.\.\)"):
        columns([f"{i:02}" for i in range(100)], ["00"])


@pytest.mark.parametrize("found", [CLASSES, ["cat", "dog", "owl"][::-1]])
def test_outputs_without_a_name_are_classes_without_data(found):
    dataset = SimpleNamespace(classes=found)
    with pytest.raises(UserError, match=r"without data: 2 \(LABEL_3, LABEL_4\): train.evaluation.cl"):
        columns_of(CLASSES, dataset, False, "weights", 5)
    places = columns_of(CLASSES, dataset, True, "weights", 5).tolist()
    assert places == [CLASSES.index(name) for name in found]


def test_names_compare_in_one_form_of_unicode():
    """A disk of macOS keeps é as two characters."""
    assert columns(["caf\u00e9", "the"], ["cafe\u0301", "the"]) is None
    assert columns(["the", "caf\u00e9"], ["cafe\u0301", "the"]).tolist() == [1, 0]
    with pytest.raises(UserError, match="a name stands for two classes"):
        columns(["caf\u00e9", "the"], ["cafe\u0301", "caf\u00e9", "the"])


@pytest.mark.parametrize(
    "names, said",
    [
        ([str(i) for i in range(12)], "label 2 is folder 10, not 2"),
        ([f"{i:02}" for i in range(12)], None),
        (["0", "1", "b10"], None),
    ],
)
def test_folders_named_by_numbers(tmp_path, caplog, names, said):
    for split in ("train", "val"):
        for name in names:
            (tmp_path / split / name).mkdir(parents=True)
            Image.new("RGB", (4, 4)).save(tmp_path / split / name / "a.png")
    with caplog.at_level(logging.WARNING, "libai"):
        for train in (True, False):
            ImageFolder(str(tmp_path), train)
    found = [record.getMessage() for record in caplog.records if "numbers" in record.getMessage()]
    assert len(found) == (said is not None) and all(said in text for text in found)
