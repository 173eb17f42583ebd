"""What is written beside the log: metrics.json, TensorBoard's event files, Weights & Biases."""
import importlib.util
import json
import struct
from collections import defaultdict
from io import BytesIO

import numpy as np
import pytest
from omegaconf import OmegaConf
from PIL import Image

from projects.MAE.configs.common.train import train as defaults
from projects.MAE.errors import UserError
from projects.MAE.monitor.writers import TensorBoard, build_writers, check_writers
from tests.support.command import TINY, TINY_DECODER, pretrain, train
from tests.support.runs import metrics


def events(folder):
    """The events of a TensorBoard folder, files in the order they were made."""
    from tensorboardX.proto.event_pb2 import Event

    for path in sorted(folder.glob("events.*"), key=lambda p: p.stat().st_mtime_ns):
        data = path.read_bytes()
        while data:
            (length,) = struct.unpack("<Q", data[:8])
            yield Event.FromString(data[12 : 12 + length])
            data = data[12 + length + 4 :]


def settings(output, **changes):
    return OmegaConf.merge(defaults, dict(output_dir=str(output)), changes)


def test_a_run_writes_the_same_figures_to_both(image_folder, tmp_path):
    evaluation = "train.evaluation.eval_period=2"
    pretrain(image_folder, tmp_path, "train.checkpointer.period=2", evaluation)
    (tmp_path / "last_checkpoint").write_text("model_0000001")
    pretrain(image_folder, tmp_path, "train.checkpointer.period=2", evaluation, "--resume")
    found, restarts = defaultdict(list), []
    for event in events(tmp_path / "tensorboard"):
        if event.session_log.status:
            restarts.append(event.step)
        for value in event.summary.value:
            found[value.tag].append((event.step, value.simple_value))
    assert restarts == [3]  # TensorBoard drops what came from iteration 3 on before
    lines = metrics(tmp_path)
    for group, key in [
        ("train", "total_loss"),
        ("train", "lr"),
        ("train", "samples_per_second"),
        ("evaluation", "reconstruction_loss"),
    ]:
        expected = [(line["iteration"], np.float32(line[key])) for line in lines if key in line]
        assert found[f"{group}/{key}"] == expected
    firsts = [line["iteration"] for line in lines if line.get("first_step")]
    assert firsts == [1, 3]  # whose speed contains the compilation
    assert [step for step, _ in found["train/total_loss"]] == [1, 2, 3, 4, 3, 4]
    assert [step for step, _ in found["evaluation/reconstruction_loss"]] == [2, 4, 4]


def test_a_picture_and_a_name_with_a_sign(tmp_path):
    pixels = np.random.default_rng(0).integers(0, 256, (6, 10, 3), dtype=np.uint8)
    writer = TensorBoard(str(tmp_path))
    writer.image("reconstructions", pixels, 7)
    writer.scalars("evaluation", 7, {"Acc@1": 50.0})
    writer.close()
    values = [value for event in events(tmp_path) for value in event.summary.value]
    assert [value.tag for value in values] == ["reconstructions", "evaluation/Acc_1"]
    drawn = Image.open(BytesIO(values[0].image.encoded_image_string))
    np.testing.assert_array_equal(np.asarray(drawn), pixels)


def test_tensorboard_can_be_switched_off(tmp_path):
    writers = build_writers(settings(tmp_path, tensorboard=False))
    assert [type(writer).__name__ for writer in writers] == ["JsonLines"]
    for writer in writers:
        writer.scalars("train", 3, {"total_loss": 0.5})
        writer.close()
    assert json.loads((tmp_path / "metrics.json").read_text()) == {"iteration": 3, "total_loss": 0.5}
    assert not (tmp_path / "tensorboard").exists()


@pytest.mark.parametrize(
    "changes, package",
    [(dict(tensorboard=True), "tensorboardX"), (dict(wandb=dict(enabled=True)), "wandb")],
)
def test_a_writer_that_is_not_installed(tmp_path, monkeypatch, changes, package):
    find = importlib.util.find_spec
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None if name == package else find(name))
    with pytest.raises(UserError, match=f"{package} is not installed: pip install '?{package}"):
        check_writers(settings(tmp_path, **changes))
    check_writers(settings(tmp_path))
    assert [type(w).__name__ for w in build_writers(settings(tmp_path))][0] == "JsonLines"


@pytest.mark.parametrize("changes", [dict(tensorboard="yes"), dict(wandb=dict(mode="sometimes"))])
def test_wrong_values(tmp_path, changes):
    with pytest.raises(UserError, match="train[.](tensorboard=yes|wandb.mode=sometimes) must be"):
        check_writers(settings(tmp_path, **changes))


def test_a_run_that_asks_for_what_is_missing_says_so(image_folder, tmp_path, monkeypatch):
    hide = tmp_path / "hide"  # where wandb is installed, too
    hide.mkdir()
    (hide / "sitecustomize.py").write_text("import sys; sys.modules['wandb'] = None\n")
    monkeypatch.setenv("PYTHONPATH", str(hide))
    wanted = ["train.wandb.enabled=True", f"train.output_dir={tmp_path}/out"]
    root = f"dataloader.train.dataset.0.root={image_folder}"
    result = train("quickstart_pretraining.py", *TINY, *TINY_DECODER, root, *wanted, ranks=2)
    errors = [line for line in result.stdout.splitlines() if line.startswith("error: ")]
    assert result.returncode == 1 and len(errors) == 1, result.stdout
    assert "train.wandb.enabled=True, but wandb is not installed" in errors[0]
    assert not (tmp_path / "out").exists()


def test_weights_and_biases_without_a_network(tmp_path):
    pytest.importorskip("wandb", reason="wandb is not installed")
    (tmp_path / "config.yaml").write_text("model: {depth: 2}\n")
    wanted = dict(tensorboard=False, wandb=dict(enabled=True, mode="offline"))
    ids = []
    for resume in (False, True):
        writer = build_writers(settings(tmp_path, **wanted), resumes=resume)[1]
        writer.scalars("train", 3, {"total_loss": 0.5})
        writer.image("reconstructions", np.zeros((4, 5, 3), np.uint8), 3)
        writer.close()
        ids.append((tmp_path / "wandb_id.txt").read_text())
    assert ids[0] and ids[0] == ids[1]  # a resumed run is the same run
    assert len(list((tmp_path / "wandb").glob(f"offline-run-*-{ids[0]}/*.wandb"))) == 2


# Stands in for a service that can't be had here, and for its client, which is not installed.
WANDB = """
from wandb import errors

def init(**unused):
    raise errors.CommError("Network error: timed out.\\nPlease try again")
"""
WANDB_ERRORS = """
class Error(Exception):
    pass

class CommError(Error):
    pass
"""


def test_a_service_that_cannot_be_reached(image_folder, tmp_path, monkeypatch):
    package = tmp_path / "packages" / "wandb"
    package.mkdir(parents=True)
    (package / "__init__.py").write_text(WANDB)
    (package / "errors.py").write_text(WANDB_ERRORS)
    monkeypatch.setenv("PYTHONPATH", str(package.parent))
    data = f"dataloader.train.dataset.0.root={image_folder}"
    settings = [*TINY, *TINY_DECODER, data, f"train.output_dir={tmp_path / 'run'}"]
    result = train("quickstart_pretraining.py", *settings, "train.wandb.enabled=True", ranks=2)
    errors = [line for line in result.stdout.splitlines() if "rror" in line]
    assert result.returncode == 1 and len(errors) == 1, result.stdout
    assert errors[0].startswith("error: train.wandb.enabled=True, but wandb can't begin a run ")
    assert "(Network error: timed out. Please try again): wandb login, or set" in errors[0]
    assert "Traceback" not in result.stdout and "died of" not in result.stdout
