"""What is written beside the log: metrics.json, TensorBoard's event files, Weights & Biases."""
import importlib.util
import json
from io import BytesIO

import numpy as np
import pytest
from omegaconf import OmegaConf
from PIL import Image

from projects.MAE.configs.common.train import train as defaults
from projects.MAE.errors import UserError
from projects.MAE.monitor.writers import TensorBoard, build_writers, check_writers
from tests.support.tensorboard_events import events


def settings(output, **changes):
    return OmegaConf.merge(defaults, dict(output_dir=str(output)), changes)


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
