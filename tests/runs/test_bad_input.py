"""A user's mistakes: one clear line that names the key, the value and the way out, exit status 1."""
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
        (["model.mask_ratio=1.0"], ["model.mask_ratio=1.0", "between 0 and 1"]),
        (["model.mask_ratio=0.0"], ["model.mask_ratio=0.0", "between 0 and 1"]),
        (["model.img_size=30"], ["model.img_size=30", "model.patch_size=4", "28 or 32"]),
        (["model.depht=3"], ["unknown key model.depht", "did you mean model.depth?"]),
        (["trian.seed=3"], ["unknown key trian.seed", "train"]),
        ([f"{ROOT_KEY}=/no/such/folder"], [f"{ROOT_KEY}=/no/such/folder", "does not exist"]),
        (["train.device=tpu"], ["train.device=tpu", "auto, cuda or cpu"]),
        (["train.global_batch_size=9"], ["train.global_batch_size=9", "2 data-parallel ranks"]),
        (["train.dist.tensor_parallel_size=3"], ["train.dist.tensor_parallel_size=3", "2 ranks"]),
        (["model.num_heads=5"], ["model.embed_dim=32", "model.num_heads=5"]),
        (["train.train_iter=0"], ["train.train_epoch", "train.train_iter"]),
        (["--eval-only"], ["--eval-only", "train.load_weight"]),
        (["train.load_weight=/x"], ["train.load_weight=/x", "finetune.path"]),
        (["train.log_period=0"], ["train.log_period=0", "at least 1"]),
        (["optim.lr=abc"], ["optim.lr=abc", "must be a number"]),
        (["train.checkpointer.max_to_keep=-1"], ["max_to_keep=-1", "at least 1"]),
        (["train.evaluation.eval_metric=foo"], ["eval_metric=foo", "reconstruction_loss"]),
        (["optim.lr=1e30", "train.warmup_epoch=0"], ["Loss became infinite or NaN at", "no checkpoint yet"]),
        (["train.max_seconds=0"], ["train.max_seconds=0", "positive number of seconds"]),
        (["train.max_bad_batches=-1"], ["train.max_bad_batches=-1", "at least 0"]),
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


@pytest.mark.parametrize(
    "settings, parts",
    [
        (["finetune.path=/no/such/run"], ["finetune.path=/no/such/run", "no such file"]),
        (["finetune.path="], ["finetune.path", "finetune.enable=False"]),
        (["finetune.enable=False", "model.num_classes=2"], ["model.num_classes=2", "3 class"]),
    ],
)
def test_wrong_finetuning_settings(image_folder, tmp_path, settings, parts):
    output = f"train.output_dir={tmp_path}"
    root = f"{ROOT_KEY}={image_folder}"
    assert_one_error(train("quickstart_finetune.py", *TINY, root, output, *settings), *parts)


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
