"""The feature file: what it holds, what is refused, and that memory does not grow."""
import json
import os
import shutil
import subprocess
import sys

import numpy as np
from PIL import Image
from safetensors.numpy import save_file

from projects.MAE.extract_features import main
from projects.MAE.models import load_encoder
from tests.support.command import ROOT, environment
from tests.commands.process import refused, succeed
from tests.commands.weights import golden_state


def test_what_the_file_holds(command, weights, image_folder, capsys):
    out = succeed(capsys, main, *command, "--batch-size", 4)
    assert "mean of the patch tokens after block 3, float32 [9, 32], of 9 images in 3 classes" in out
    file = np.load(command[-1])
    kinds = {name: file[name].dtype.str for name in file.files}
    length = len(str(file["settings"]))
    assert kinds == dict(
        settings=f"<U{length}", classes="<U6", labels="<i8", files="<U12", features="<f4"
    )
    names = [f"class{label}/{i}.jpg" for label in range(3) for i in range(3)]
    assert file["files"].tolist() == names
    assert file["labels"].tolist() == [0, 0, 0, 1, 1, 1, 2, 2, 2]
    assert file["classes"].tolist() == ["class0", "class1", "class2"]
    settings = json.loads(str(file["settings"]))
    assert settings["features"] == "mean" and settings["block"] == 3
    assert settings["preprocessing"]["resize"] == 36 and settings["weights"] == str(weights)
    encoder = load_encoder(weights)
    expected = encoder([image_folder / "val" / name for name in names])
    assert file["features"].dtype == np.float32
    np.testing.assert_allclose(file["features"], expected, rtol=0, atol=1e-5)


def test_options(command, weights, image_folder, capsys):
    options = ["--features", "all", "--block", 2, "--num-workers", 0, "--json"]
    files = sorted((image_folder / "val" / "class1").iterdir())
    arguments = ["--weights", weights, "--out", command[-1], "--images", *files]
    told = json.loads(succeed(capsys, main, *arguments, *options))
    assert told["shape"] == [3, 17, 32] and told["classes"] == 0
    file = np.load(command[-1])
    assert file["files"].tolist() == list(map(str, files)) and file["labels"].tolist() == [-1] * 3
    expected = load_encoder(weights)(files, features="all", block=2)
    np.testing.assert_allclose(file["features"], expected, rtol=0, atol=1e-5)


def test_what_is_there_stays(command, capsys):
    command[-1].write_text("precious")
    assert "--force replaces it" in refused(capsys, main, *command)
    assert command[-1].read_text() == "precious"
    succeed(capsys, main, *command, "--force")
    assert len(np.load(command[-1])["features"]) == 9


def test_images_that_cannot_be_read(weights, tmp_path, capsys):
    folder = tmp_path / "images"
    folder.mkdir()
    for i in range(3):
        Image.new("RGB", (40, 40), (i, 0, 0)).save(folder / f"{i}.png")
    (folder / "1.png").write_text("no image")
    command = ["--weights", weights, "--images", folder, "--out", tmp_path / "out.npz"]
    error = refused(capsys, main, *command, "--num-workers", 0)
    assert str(folder / "1.png") in error and "--on-error skip" in error
    out = succeed(capsys, main, *command, "--on-error", "skip")
    assert "1 images can't be read" in out
    features = np.load(tmp_path / "out.npz")["features"]
    assert np.isnan(features).all(axis=1).tolist() == [False, True, False]


def test_bad_input(command, image_folder, tmp_path, capsys):
    assert "no such file" in refused(capsys, main, *command[:3], tmp_path / "none", *command[4:])
    assert "holds train/ and val/" in refused(capsys, main, *command[:3], image_folder, *command[4:])
    for name in ("train", "val", "test"):
        (tmp_path / "root" / name).mkdir(parents=True)
        Image.new("RGB", (8, 8)).save(tmp_path / "root" / name / "1.png")
    error = refused(capsys, main, *command[:3], tmp_path / "root", *command[4:])
    assert "holds train/ and val/" in error
    shutil.rmtree(tmp_path / "root")
    assert "blocks 1 to 3" in refused(capsys, main, *command, "--block", 9)
    assert "is a folder" in refused(capsys, main, *command[:-1], tmp_path)
    (tmp_path / "empty").mkdir()
    assert "no image" in refused(capsys, main, *command[:3], tmp_path / "empty", *command[4:])
    assert list(tmp_path.iterdir()) == [tmp_path / "empty"]


# Runs a command and prints the most memory, in kB, that it had resident at a time. It starts small,
# as a program has what its parent had before it.
MEASURE = """
import resource, subprocess, sys
subprocess.run(sys.argv[1:], check=True, stdout=subprocess.DEVNULL)
print(resource.getrusage(resource.RUSAGE_CHILDREN).ru_maxrss)
"""


def test_memory_does_not_grow_with_the_images(golden, tmp_path):
    state = golden_state(golden, "mean")
    rng = np.random.default_rng(0)
    tokens, width = 1 + 32 * 32, 32
    state["pos_embed"] = rng.standard_normal((1, tokens, width)).astype(np.float32)
    save_file(state, tmp_path / "vit.safetensors")
    folder = tmp_path / "images"
    folder.mkdir()
    for i in range(600):
        Image.new("RGB", (8, 8), (i % 256, 0, 0)).save(folder / f"{i:04d}.png")
    few = sorted(folder.iterdir())[:60]
    command = [sys.executable, "-c", MEASURE, sys.executable, "-m", "projects.MAE.extract_features"]
    command += ["--weights", tmp_path / "vit.safetensors", "--num-heads", 4, "--features", "all"]
    command += ["--batch-size", 2, "--num-workers", 0, "--out"]
    peaks = {}
    for name, images in (("few", few), ("many", [folder])):
        out = tmp_path / f"{name}.npz"
        result = subprocess.run(
            [str(part) for part in (*command, out, "--images", *images)],
            cwd=ROOT,
            env=dict(environment(), PYTHONPATH=os.fspath(ROOT)),
            capture_output=True,
            text=True,
        )
        assert result.returncode == 0, result.stderr
        peaks[name] = int(result.stdout) / 1000
    assert (tmp_path / "many.npz").stat().st_size > 600 * tokens * width * 4 > 78e6
    # Both have a peak of some 30 MB while they start, so not all of what is kept would show.
    assert peaks["many"] < peaks["few"] + 25, peaks  # MB
