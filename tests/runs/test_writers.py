"""What whole runs write beside the log, and what they say where a writer can't be had."""
from collections import defaultdict

import numpy as np

from tests.support.command import TINY, TINY_DECODER, pretrain, train
from tests.support.runs import metrics
from tests.support.tensorboard_events import events


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
