"""The pictures of training, on any layout, and those of the command."""
import os
import shutil
from types import SimpleNamespace

import numpy as np
import pytest
from PIL import Image

from projects.MAE import convert_weights
from projects.MAE.checkpoint.names import find_checkpoint
from projects.MAE.data.datasets import PretrainingDataset
from projects.MAE.data.transforms import CenterCrop, Compose, Resize, ToArray
from projects.MAE.engine.reconstruction_hook import ReconstructionHook
from projects.MAE.errors import UserError
from projects.MAE.visualize import main
from tests.support.command import ROOT, TINY, TINY_DECODER, environment, finetune, pretrain, train
from tests.commands.process import refused, run, succeed
from tests.commands.weights import write_weights
from tests.support.golden_models import tiny_mae
from tests.support.runs import assert_same_weights, losses

GRID = 430  # lines of pixels of four rows of 24-pixel images; below is the caption, names and all
PICTURES = ["train.visualize.period=2", "train.visualize.after_n_epoch=null"]
PICTURES += ["train.visualize.num_images=5"]
NONE = ["train.visualize.period=0", "train.visualize.after_n_epoch=null"]


def pixels(path):
    """The grid without its caption."""
    return np.asarray(Image.open(path)).astype(int)[:GRID]


def description(path):
    return Image.open(path).text["Description"]


@pytest.fixture(scope="module")
def pretrained(image_folder, tmp_path_factory):
    """A run of 4 iterations on one rank that draws after 2 and 4, and its output."""
    folder = tmp_path_factory.mktemp("pretrained")
    return folder, pretrain(image_folder, folder, *PICTURES)


def test_training_draws_and_goes_on_as_without(image_folder, pretrained, tmp_path):
    folder, output = pretrained
    drawn = sorted(path.name for path in (folder / "reconstructions").iterdir())
    assert drawn == ["iteration_0000002.png", "iteration_0000004.png"]
    assert all(str(folder / "reconstructions" / name) in output for name in drawn)
    first, last = (folder / "reconstructions" / name for name in drawn)
    assert "27 of 36 patches masked (75%), seed 0." in description(last)
    assert "norm_pix_loss=False, known from the configuration" in description(last)
    originals, changed = np.split(pixels(first) != pixels(last), [200])
    assert not originals.any() and changed.any()  # the same images and masks, another model
    pretrain(image_folder, tmp_path, *NONE)
    assert not (tmp_path / "reconstructions").exists()
    assert losses(tmp_path) == losses(folder)
    assert_same_weights(tmp_path, folder)


@pytest.mark.parametrize(
    "ranks, layout",
    [
        (2, ["train.dist.pipeline_parallel_size=2", "graph.enabled=False"]),
        (4, ["train.dist.tensor_parallel_size=2", "model.norm_pix_loss=True"]),
    ],
)
def test_any_layout_draws_the_picture_of_one_rank(
    image_folder, pretrained, tmp_path, ranks, layout
):
    expected = pretrained[0]
    if "model.norm_pix_loss=True" in layout:
        expected = tmp_path / "one"
        pretrain(image_folder, expected, *PICTURES, "model.norm_pix_loss=True")
    pretrain(image_folder, tmp_path / "many", *PICTURES, *layout, ranks=ranks)
    for name in ("iteration_0000002.png", "iteration_0000004.png"):
        ours, theirs = (f / "reconstructions" / name for f in (tmp_path / "many", expected))
        assert np.abs(pixels(ours) - pixels(theirs)).max() <= 1  # a rounded value may fall either way
        assert description(ours).splitlines()[1:] == description(theirs).splitlines()[1:]


def test_without_validation_images_it_draws_those_of_training(image_folder, tmp_path, capsys):
    data, output = tmp_path / "data", tmp_path / "run"
    shutil.copytree(image_folder / "train", data / "train")
    pretrain(data, output, *PICTURES, "train.evaluation.enabled=False")
    last = output / "reconstructions" / "iteration_0000004.png"
    succeed(capsys, main, "--weights", output, "--out", tmp_path / "grid.png", "--num-images", 5)
    np.testing.assert_array_equal(pixels(tmp_path / "grid.png"), pixels(last))


@pytest.mark.parametrize(
    "settings, parts",
    [
        (["train.visualize.num_images=0"], ["train.visualize.num_images=0", "at least 1"]),
        (["dataloader.test=[]", "train.evaluation.enabled=False"], ["dataloader.test"]),
    ],
)
def test_settings_that_cannot_be(image_folder, tmp_path, settings, parts):
    data = f"dataloader.train.dataset.0.root={image_folder}"
    tiny = [*TINY, *TINY_DECODER, data, f"train.output_dir={tmp_path}"]
    result = train("quickstart_pretraining.py", *tiny, *settings)
    assert result.returncode == 1 and all(part in result.stdout for part in parts), result.stdout
    assert "Traceback" not in result.stdout


def test_a_classifier_draws_nothing(image_folder, tmp_path):
    data = [f"dataloader.train.dataset.0.root={image_folder}", f"train.output_dir={tmp_path}"]
    result = train("quickstart_finetune.py", *TINY, *data, "train.visualize.period=2")
    assert result.returncode == 1 and "error: train.visualize.period" in result.stdout


def test_the_command_draws_the_picture_of_training(image_folder, pretrained, tmp_path):
    folder, _ = pretrained
    arguments = ["--weights", folder, "--num-images", 5, "--out", tmp_path / "grid.png"]
    status, out, error = run("visualize", *arguments, cwd=tmp_path)
    assert status == 0 and error == "", error
    last = folder / "reconstructions" / "iteration_0000004.png"
    np.testing.assert_array_equal(pixels(tmp_path / "grid.png"), pixels(last))
    told = description(tmp_path / "grid.png")
    assert f"{find_checkpoint(folder)}, iteration 4" in told and "its model card" in told
    assert told in out and "5 of 9 images" in out


def test_the_same_seed_gives_the_same_file(image_folder, pretrained, tmp_path, capsys):
    folder, _ = pretrained
    base = ["--weights", folder, "--num-images", 5]

    def draw(name, *arguments):
        path = tmp_path / f"{name}.png"
        succeed(capsys, main, *base, "--out", path, *arguments)
        return path

    once, again = draw("once"), draw("again")
    assert once.read_bytes() == again.read_bytes()
    # The seed of the run is the default, and the images are those of val/.
    named = draw("named", "--images", image_folder / "val", "--seed", 0)
    assert named.read_bytes() == once.read_bytes()
    other = draw("other", "--seed", 1)
    assert "seed 1" in description(other)
    originals, changed = np.split(pixels(other) != pixels(once), [126])
    assert not originals.any() and changed.any()
    half = draw("half", "--mask-ratio", 0.5)
    assert "18 of 36 patches masked (50%)" in description(half)


def test_files_one_by_one(image_folder, pretrained, tmp_path, capsys):
    files = sorted((image_folder / "val").rglob("*.jpg"))[:2]
    bad = tmp_path / "bad.jpg"
    bad.write_bytes(b"no image")
    base = ["--weights", pretrained[0], "--out", tmp_path / "grid.png", "--images", *files]
    assert "2 of 2 images" in succeed(capsys, main, *base)
    error = refused(capsys, main, *base, bad, "--force")
    assert str(bad) in error and "--on-error skip" in error
    assert "2 of 3 images" in succeed(capsys, main, *base, bad, "--force", "--on-error", "skip")
    skip = ["--weights", pretrained[0], "--out", tmp_path / "no.png", "--on-error", "skip"]
    assert "none of these images" in refused(capsys, main, *skip, "--images", bad)


def test_a_name_that_is_no_text(image_folder, pretrained, tmp_path):
    image = os.fsencode(tmp_path) + b"/\xff\x1b[2J.jpg"
    shutil.copy(next((image_folder / "val").rglob("*.jpg")), image)
    out = os.fsdecode(os.fsencode(tmp_path) + b"/\xfe.png")
    env = dict(environment(), PYTHONPATH=os.fspath(ROOT), PYTHONIOENCODING="utf-8:strict")
    arguments = ["--weights", pretrained[0], "--images", os.fsdecode(image), "--out", out]
    status, said, error = run("visualize", *arguments, env=env)
    assert (status, error) == (0, "")
    assert f"{tmp_path}/\\udcfe.png: 1 of 1" in said and "\\udcff\\x1b[2J.jpg" in said
    assert os.path.isfile(out)


@pytest.mark.parametrize("norm_pix", ["yes", "no"])
def test_what_told_of_normalised_targets(golden, image_folder, tmp_path, capsys, norm_pix):
    weights = write_weights(golden, "full", tmp_path / "full.safetensors")
    base = ["--weights", weights, "--images", image_folder / "val", "--out", tmp_path / "grid.png"]
    heads = ["--num-heads", 4, "--decoder-num-heads", 4]
    assert "--norm-pix-loss yes" in refused(capsys, main, *base, *heads)
    out = succeed(capsys, main, *base, *heads, "--norm-pix-loss", norm_pix)
    expected = "norm_pix_loss=True" if norm_pix == "yes" else "norm_pix_loss=False"
    assert f"{expected}, known from --norm-pix-loss" in out
    assert ("un-normalised here with the mean" in out) is (norm_pix == "yes")


def test_every_format_gives_the_same_picture(golden, image_folder, tmp_path, capsys):
    ours = write_weights(golden, "full", tmp_path / "ours", decoder_num_heads=4, norm_pix_loss=True)
    told = {ours: "its model card"}
    for layout, name, teller in [
        ("mae", "authors.safetensors", "its model card"),
        ("transformers", "vit_mae", "its config.json"),
    ]:
        succeed(capsys, convert_weights.main, ours, tmp_path / name, "--to", layout)
        told[tmp_path / name] = teller
    pictures = []
    for weights, teller in told.items():
        out = tmp_path / "pictures" / f"{weights.name}.png"
        arguments = ["--weights", weights, "--images", image_folder / "val", "--out", out]
        expected = f"norm_pix_loss=True, known from {teller}): un-normalised"
        assert expected in succeed(capsys, main, *arguments)
        pictures.append(pixels(out))
    for picture in pictures[1:]:
        np.testing.assert_array_equal(picture, pictures[0])


def test_a_training_file_of_the_authors_code(image_folder, tmp_path, capsys):
    weights = ROOT / "tests" / "golden" / "weights" / "training_full.pth"
    heads = ["--num-heads", 4, "--decoder-num-heads", 4]
    arguments = ["--weights", weights, *heads, "--images", image_folder / "val"]
    told = succeed(capsys, main, *arguments, "--out", tmp_path / "grid.png")
    assert "known from its training arguments" in told and "epoch" in told.splitlines()[1]


def test_weights_without_a_decoder(golden, image_folder, tmp_path, capsys):
    weights = write_weights(golden, "encoder", tmp_path / "encoder.safetensors")
    base = ["--weights", weights, "--num-heads", 4, "--images", image_folder / "val"]
    error = refused(capsys, main, *base, "--out", tmp_path / "grid.png")
    for name in ("without a decoder", "mae_pretrain_vit_*_full.pth", "mae_visualize_vit_*.pth"):
        assert name in error
    finetune(image_folder, tmp_path / "run", "train.train_iter=1", "finetune.enable=False")
    error = refused(capsys, main, "--weights", tmp_path / "run", "--out", tmp_path / "grid.png")
    assert "a classifier without a decoder" in error
    assert not (tmp_path / "grid.png").exists()


def test_images_that_are_not_known(golden, pretrained, tmp_path, capsys):
    out = ["--out", tmp_path / "grid.png"]
    weights = write_weights(golden, "full", tmp_path / "full", decoder_num_heads=4, norm_pix_loss=True)
    error = refused(capsys, main, "--weights", weights, *out)
    assert str(weights) in error and "give --images" in error
    moved = tmp_path / "moved"
    shutil.copytree(pretrained[0], moved, symlinks=True)
    config = (moved / "config.yaml").read_text()
    root = next(line for line in config.splitlines() if "root: /" in line).split("root: ")[1]
    (moved / "config.yaml").write_text(config.replace(root, "/no/such/images"))
    error = refused(capsys, main, "--weights", moved, *out)
    assert "/no/such/images" in error and "give --images" in error
    (moved / "config.yaml").write_text(config.replace(root, "${oc.env:NO_SUCH_VARIABLE}"))
    error = refused(capsys, main, "--weights", moved, *out)
    assert "does not say which images it was trained with: give --images" in error


def test_options_that_cannot_be(pretrained, tmp_path, capsys):
    base = ["--weights", pretrained[0]]
    for arguments, parts in [
        (["--mask-ratio", 1], ["--mask-ratio 1"]),
        (["--mask-ratio", 0.99], ["--mask-ratio 0.99: it leaves 0 of 36"]),
        (["--num-images", 0], ["--num-images", "above 0", "'0'"]),
        (["--seed", -1], ["--seed", "-1"]),
        (["--norm-pix-loss", "yes"], ["--norm-pix-loss", "says False"]),
        (["--images", tmp_path / "none"], ["--images", "no such file"]),
    ]:
        error = refused(capsys, main, *base, "--out", tmp_path / "grid.png", *arguments)
        assert all(part in error for part in parts), error
    assert "end with .png" in refused(capsys, main, *base, "--out", tmp_path / "grid.jpg")
    (tmp_path / "there.png").write_text("mine")
    assert "--force" in refused(capsys, main, *base, "--out", tmp_path / "there.png")
    assert (tmp_path / "there.png").read_text() == "mine"
    assert "such file" in refused(capsys, main, "--weights", tmp_path / "none", "--out", tmp_path / "a.png")


def test_a_picture_that_cannot_be_written(pretrained, tmp_path, capsys):
    base = ["--weights", pretrained[0], "--num-images", 1, "--out"]
    error = refused(capsys, main, *base, tmp_path / ("a" * 250 + ".png"))  # .partial is too much
    assert "error: --out " in error and "File name too long" in error
    os.symlink("/dev/full", tmp_path / "grid.png.partial")
    error = refused(capsys, main, *base, tmp_path / "grid.png")
    assert f"--out {tmp_path / 'grid.png'}" in error and "No space left" in error
    assert not list(tmp_path.iterdir())


class Album:
    """A writer that keeps what it is given."""

    def __init__(self):
        self.images = []

    def image(self, name, pixels, iteration):
        self.images.append((name, pixels, iteration))


def dataset(root, *transforms):
    return PretrainingDataset(root, False, Compose(transforms), img_size=32, patch_size=8)


def test_writers_get_the_pictures(golden, image_folder, tmp_path):
    images = dataset(image_folder, Resize(32), CenterCrop(32), ToArray())
    hook = ReconstructionHook(lambda done: done == 3, images, 3, str(tmp_path))
    album = Album()
    model = tiny_mae(golden("pretrain_tiny"), True)
    hook.trainer = SimpleNamespace(model=model, writers=[album], max_iter=5)
    for hook.trainer.iter in range(5):
        hook.after_step()
    assert [(name, iteration) for name, _, iteration in album.images] == [
        ("reconstructions", 3),
        ("reconstructions", 5),
    ]
    drawn = Image.open(tmp_path / "reconstructions" / "iteration_0000003.png")
    np.testing.assert_array_equal(album.images[0][1], np.asarray(drawn))


def test_an_unreadable_image_ends_the_run_at_its_start_or_is_left_out(image_folder, tmp_path):
    shutil.copytree(image_folder, tmp_path / "data")
    first = sorted((tmp_path / "data" / "val" / "class0").iterdir())[0]
    first.write_bytes(b"no image")
    images = dataset(tmp_path / "data", Resize(32), CenterCrop(32), ToArray())
    with pytest.raises(UserError, match=f"cannot read the image {first}"):
        ReconstructionHook(bool, images, 3, str(tmp_path))
    images.on_error = "skip"
    hook = ReconstructionHook(bool, images, 3, str(tmp_path))
    assert [label.split("/")[0] for label in hook.samples.labels] == ["class1", "class2"]


def test_a_transform_that_does_not_say_how_to_undo_it(image_folder, tmp_path):
    images = dataset(image_folder, Resize(32), CenterCrop(32), ToArray(), lambda array, rng: array)
    with pytest.raises(UserError, match="does not end with ToArray.*train.visualize.period=0"):
        ReconstructionHook(bool, images, 3, str(tmp_path))
