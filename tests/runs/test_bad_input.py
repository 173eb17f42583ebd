"""A user's mistakes: one clear line that names the key, the value and the way out, exit status 1.

`tests/unit/settings/test_bad_settings.py` tries all kinds of settings in one process; here is what
needs the whole command, and several ranks.
"""
import os
import re
import shutil

import pytest

from tests.support.command import TINY, TINY_DECODER, train

ROOT_KEY = "dataloader.train.dataset.0.root"


def error_lines(result):
    return [line for line in result.stdout.splitlines() if line.startswith(("error: ", "train.sh: "))]


def assert_one_error(result, *parts):
    lines = error_lines(result)
    assert result.returncode == 1, result.stdout
    assert len(lines) == 1 and "Traceback" not in result.stdout, result.stdout
    for part in parts:
        assert part in lines[0], lines[0]


@pytest.mark.parametrize(
    "settings, parts",
    [
        (["train.global_batch_size=9"], ["train.global_batch_size=9", "2 data-parallel ranks"]),
        (["train.dist.tensor_parallel_size=3"], ["train.dist.tensor_parallel_size=3", "2 ranks"]),
        (["optim.lr=1e30", "train.warmup_epoch=0"], ["Loss became infinite or NaN at", "no checkpoint yet"]),
    ],
)
def test_wrong_settings(image_folder, tmp_path, settings, parts):
    output = f"train.output_dir={tmp_path}"
    root = f"{ROOT_KEY}={image_folder}"
    result = train(
        "quickstart_pretraining.py", *TINY, *TINY_DECODER, root, output, *settings, ranks=2
    )
    assert_one_error(result, *parts)
    assert not list(tmp_path.glob("model_*"))


def test_fewer_classes_than_the_data_has(image_folder, tmp_path):
    settings = [f"{ROOT_KEY}={image_folder}", f"train.output_dir={tmp_path}"]
    settings += ["finetune.enable=False", "model.num_classes=2"]
    result = train("quickstart_finetune.py", *TINY, *settings)
    assert_one_error(result, "model.num_classes=2", "3 class folders")


@pytest.fixture
def own_folder(image_folder, tmp_path):
    """A copy of the images that a test may break."""
    return shutil.copytree(image_folder, tmp_path / "images")


@pytest.mark.parametrize("ranks", [1, 2])
def test_unreadable_image(own_folder, tmp_path, ranks):
    victim = own_folder / "train" / "class1" / "3.jpg"
    victim.write_bytes(victim.read_bytes()[:200])
    settings = [f"{ROOT_KEY}={own_folder}", f"train.output_dir={tmp_path}/out"]
    result = train("quickstart_pretraining.py", *TINY, *TINY_DECODER, *settings, ranks=ranks)
    assert_one_error(result, str(victim), "cannot read the image")


def test_empty_class_folder(own_folder, tmp_path):
    (own_folder / "train" / "empty").mkdir()
    settings = [f"{ROOT_KEY}={own_folder}", f"train.output_dir={tmp_path}/out"]
    result = train("quickstart_finetune.py", *TINY, *settings, "finetune.enable=False")
    assert_one_error(result, str(own_folder / "train" / "empty"), "holds no image")


def test_unknown_config_file():
    result = train("no_such_config.py")
    assert_one_error(result, "no_such_config.py", "no such file")


@pytest.mark.parametrize("ranks", [1, 2, 4])
def test_every_number_of_ranks(image_folder, tmp_path, ranks):
    settings = [*TINY, *TINY_DECODER, f"{ROOT_KEY}={image_folder}", f"train.output_dir={tmp_path}/out"]
    result = train("quickstart_pretraining.py", *settings, "model.mask_ratio=2", ranks=ranks)
    said = [x for x in result.stdout.splitlines() if re.search("(?i)error|traceback|check failed", x)]
    assert result.returncode == 1 and len(said) == 1, result.stdout
    assert said[0].startswith("error: model.mask_ratio=2: it leaves 0 of 36 patches visible: ")
    assert not os.path.exists(f"{tmp_path}/out")


def test_a_syntax_error_in_the_configuration_file(tmp_path):
    file = tmp_path / "wrong.py"
    file.write_text("model = dict(\n    depth=3\n    width=4\n)\n")
    result = train(file, ranks=2)
    lines = error_lines(result)
    assert result.returncode == 1 and len(lines) == 1, result.stdout
    assert lines[0].startswith(f"error: --config-file {file}, line 2: SyntaxError: ")


def test_a_configuration_that_is_no_python_file(tmp_path):
    file = tmp_path / "settings.txt"
    file.write_text("depth: 3\n")
    result = train(file, ranks=1)
    assert result.returncode == 1
    assert error_lines(result) == [f"error: --config-file {file} must be a Python file, NAME.py"]
