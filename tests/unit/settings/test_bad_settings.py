"""Wrong settings: one line that names key, value and way out; exit status 1; nothing is started.

Most cases call the real entry point in this process, where starting Python and OneFlow would take
all the time; `tests/runs/test_bad_input.py` runs the whole command.
"""
import os

import pytest

from projects.MAE.engine.process import tell
from projects.MAE.errors import UserError
from projects.MAE.train_net import main
from tests.support.command import CONFIGS, ROOT, TINY, TINY_DECODER
from tests.unit.settings.wrong_files import FILES, OWN_LINES
from tests.unit.settings.wrong_settings import BATCH, FINETUNING, PRETRAINING, ROOT_KEY


def status_of(argv):
    """The exit status of the entry point, once it has told why; nothing is left but this process."""
    with pytest.raises(UserError) as caught:
        main(argv)
    return tell(caught.value)[0]


def refusal(capfd, *argv):
    """The message of the entry point, in this process, and its exit status."""
    status = status_of(list(map(str, argv)))
    errors = [x for x in capfd.readouterr().err.splitlines() if x.strip()]
    assert len(errors) == 1 and errors[0].startswith("error: "), errors
    return status, errors[0][len("error: ") :]


@pytest.fixture
def started(monkeypatch):
    """The entry point in this process leaves no trace of a run that was almost started."""
    monkeypatch.delenv("MAE_TRACEBACK", raising=False)
    monkeypatch.chdir(ROOT)


ALL = [("quickstart_pretraining.py", *case) for case in PRETRAINING]
ALL += [("mae_finetune.py", *case) for case in FINETUNING]
ALL += [(None, *case) for case in FILES]
ALL += [("lines", *case) for case in OWN_LINES]


@pytest.mark.parametrize("config, wrong, message", ALL)
def test_wrong_setting(started, capfd, image_folder, tmp_path, config, wrong, message):
    settings = [*TINY, f"{ROOT_KEY}={image_folder}", f"train.output_dir={tmp_path}/out"]
    file = f"{CONFIGS}/{config}"
    if config in (None, "lines"):
        file = tmp_path / "wrong.py"
        message = message.replace("FILE", str(file)).replace("FOLDER", str(tmp_path))
    if config is None:
        file.write_text(wrong)
        settings, wrong = [], ""
        if not message.startswith("the config"):
            message = f"--config-file {message}"
    elif config == "lines":
        recipe = ROOT / CONFIGS / "quickstart_pretraining.py"
        load = "from omegaconf import OmegaConf\n"
        load += f"from libai.config import LazyConfig\nglobals().update(LazyConfig.load({str(recipe)!r}))\n"
        file.write_text(load + wrong)
        wrong = ""
    if config == "mae_finetune.py":
        settings += [BATCH, "train.num_accumulation_steps=1", "train.warmup_epoch=0"]
        settings += ["model.num_classes=3", "model.img_size=24", "model.patch_size=4"]
        settings += ["finetune.enable=False"]
    elif config:
        settings += TINY_DECODER
    status, found = refusal(capfd, "--config-file", file, *settings, *wrong.split())
    assert status == 1
    assert found == message
    assert not os.path.exists(f"{tmp_path}/out")


def test_traceback_where_it_is_asked_for(started, capfd, monkeypatch):
    monkeypatch.setenv("MAE_TRACEBACK", "1")
    config = f"{CONFIGS}/quickstart_pretraining.py"
    assert status_of(["--config-file", config, "model.depth=0"]) == 1
    *before, last = capfd.readouterr().err.splitlines()
    assert before[0].startswith("Traceback") and "check_each" in "".join(before)
    assert last == "error: model.depth=0 must be a whole number of at least 1"
