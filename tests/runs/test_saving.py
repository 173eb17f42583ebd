"""Runs whose disk, checkpoints or output folder are not as they should be; on tiny models."""
import shutil

import pytest

from projects.MAE.checkpoint.manifest import check_whole
from projects.MAE.checkpoint.names import find_checkpoint
from projects.MAE.checkpoint.reader import read_weights
from tests.support.command import CONFIGS, TINY, TINY_DECODER, pretrain, run_program, train
from tests.support.runs import assert_same_weights
from tests.runs.test_bad_input import assert_one_error

PERIOD = "train.checkpointer.period=1"
# Its largest tensors have 110 and 147 kB, a batch of images 55, which lies in a file in memory.
WIDTH = "model.embed_dim=96"
SETTINGS = [WIDTH, PERIOD, "train.evaluation.enabled=False", "train.warmup_epoch=0"]


@pytest.fixture(scope="module")
def finished(image_folder, tmp_path_factory):
    """A run of 3 iterations with a checkpoint after each."""
    folder = tmp_path_factory.mktemp("finished")
    pretrain(image_folder, folder, *SETTINGS, "train.train_iter=3")
    return folder


@pytest.fixture
def folder(finished, tmp_path):
    """A copy that a test may break."""
    return shutil.copytree(finished, tmp_path / "run", symlinks=True)


def settings(images, folder):
    root = f"dataloader.train.dataset.0.root={images}"
    return [*TINY, *TINY_DECODER, root, f"train.output_dir={folder}", *SETTINGS]


@pytest.mark.parametrize("ranks", [1, 2])
def test_a_damaged_newest_checkpoint_costs_the_time_since_the_one_before(
    image_folder, finished, folder, ranks
):
    victim = next((folder / "model_0000002" / "graph").glob("tensor_*/out"))
    data = bytearray(victim.read_bytes())
    data[0] ^= 1
    victim.write_bytes(data)
    output = pretrain(
        image_folder, folder, *SETTINGS, "train.train_iter=3", "--resume", ranks=ranks
    )
    assert f"set aside as model_0000002.damaged: {victim}" in output
    assert "model_0000001, 2 iterations done" in output
    check_whole(find_checkpoint(folder))
    assert_same_weights(folder, finished, rtol=0.0 if ranks == 1 else 1e-4)


@pytest.mark.parametrize("ranks", [1, 2])
def test_a_file_that_does_not_fit_ends_the_run_and_leaves_the_checkpoint_before(
    image_folder, folder, ranks
):
    command = ["bash", "tools/train.sh", "projects/MAE/train_net.py"]
    command += [f"{CONFIGS}/quickstart_pretraining.py", str(ranks)]
    command += [*settings(image_folder, folder), "--resume", "train.train_iter=5"]
    limited = ["bash", "-c", 'ulimit -f 96 && exec "$@"', "limited", *command]
    assert_one_error(
        run_program(limited),
        f"{folder}/.model_0000003.partial/",
        "File too large",
        "free)",
        f"{folder}/model_0000002 is whole, go on from it with --resume",
    )
    assert (folder / "last_checkpoint").read_text() == "model_0000002"
    assert not list(folder.glob(".model*")) and not list(folder.glob("model_0000003*"))
    check_whole(folder / "model_0000002")
    read_weights(folder / "model_0000002")


def test_the_folder_of_another_run_is_refused_before_anything_is_written(image_folder, folder):
    before = {path: path.read_bytes() for path in folder.rglob("*") if path.is_file()}
    new = settings(image_folder, folder)
    for change, parts in [
        ([], ["model_0000002, 3 iterations", "--resume", "name another folder"]),
        (["model.depth=3"], ["model.depth=1, not 3", "name another folder"]),
        (["model.depth=3", "--resume"], ["--resume: model.depth=3, but", "a run with 1"]),
    ]:
        assert_one_error(train("quickstart_pretraining.py", *new, *change, ranks=2), *parts)
    assert before == {path: path.read_bytes() for path in folder.rglob("*") if path.is_file()}


def test_other_data_is_refused_on_resuming(image_folder, folder, tmp_path):
    fewer = shutil.copytree(image_folder, tmp_path / "fewer")
    (fewer / "train" / "class1" / "3.jpg").unlink()
    resume = [*settings(fewer, folder), "--resume", "train.train_iter=5"]
    result = train("quickstart_pretraining.py", *resume)
    assert_one_error(result, "training images=29, but", "a run with 30")
    (fewer / "train" / "class1" / "other.jpg").write_bytes(
        (fewer / "train" / "class1" / "4.jpg").read_bytes()
    )
    result = train("quickstart_pretraining.py", *resume)
    assert_one_error(result, "names of the training images=the data's, but", "a run with others")
    assert (folder / "last_checkpoint").read_text() == "model_0000002"


def test_a_run_past_its_end_is_refused(image_folder, folder):
    resume = [*settings(image_folder, folder), "--resume", "train.train_iter=2"]
    result = train("quickstart_pretraining.py", *resume)
    assert_one_error(result, "has 3 iterations done, more than this run's 2", "train.train_iter")


def test_evaluating_leaves_the_configuration_of_the_run(image_folder, folder):
    before = (folder / "config.yaml").read_bytes()
    pretrain(image_folder, folder, WIDTH, "--eval-only", "--resume", "train.seed=5")
    assert (folder / "config.yaml").read_bytes() == before
    assert (folder / "evaluation.json").exists() and (folder / "evaluation.yaml").exists()


def test_a_run_starts_where_last_checkpoint_names_nothing(image_folder, tmp_path):
    (tmp_path / "last_checkpoint").write_text("model_final")
    output = pretrain(image_folder, tmp_path, "--resume", "train.train_iter=1")
    assert "so this run is a new one" in output
