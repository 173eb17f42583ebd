"""Settings of a recipe can be changed as attributes: in a copy of its file and in what imports it."""
import shutil
import sys

import pytest
from omegaconf import DictConfig

from projects.MAE.settings.load import load_config
from tests.support.command import ROOT, TINY, must_train, pretrain

CONFIGS = ROOT / "projects/MAE/configs"
RECIPES = sorted(path.name for path in CONFIGS.glob("*.py"))


@pytest.fixture
def copies(tmp_path):
    """A copy of the configurations, for a test to write into."""
    return shutil.copytree(CONFIGS, tmp_path / "configs")


def insert(file, after, lines):
    """Write lines below the first line of a file that starts with `after`."""
    text = file.read_text().splitlines()
    (number,) = [i for i, line in enumerate(text) if line.startswith(after)]
    file.write_text("\n".join(text[: number + 1] + lines + text[number + 1 :]) + "\n")


LINES = ["finetune.enable = True", 'finetune.weight_style = "oneflow"']


def test_finetuning_from_a_path_that_stands_in_the_file(copies, image_folder, tmp_path):
    pretrain(image_folder, tmp_path / "pretrained", "train.train_iter=1")
    file = copies / "mae_finetune.py"
    insert(file, "finetune = ", [*LINES, f'finetune.path = "{tmp_path}/pretrained"'])
    settings = ["model.img_size=24", "model.patch_size=4", "model.num_classes=3"]
    settings += ["train.num_accumulation_steps=1", "train.train_micro_batch_size=null"]
    settings += ["train.warmup_epoch=0", "dataloader.train.num_workers=0"]
    output = must_train(
        str(file),
        *TINY,
        *settings,
        f"dataloader.train.dataset.0.root={image_folder}",
        f"train.output_dir={tmp_path}/finetuned",
        "train.evaluation.enabled=False",
    )
    (line,) = [line for line in output.splitlines() if "Loaded" in line]
    assert f"{tmp_path}/pretrained" in line


def groups(node, name):
    """The name of each group of settings of a configuration, and what it is."""
    found = {name: node}
    for key in node:
        if isinstance(node, DictConfig) and isinstance(node._get_node(key), DictConfig):
            found.update(groups(node._get_node(key), f"{name}.{key}"))
    return found


@pytest.mark.parametrize("recipe", RECIPES)
def test_every_group_is_written_to_in_the_file_itself(copies, recipe):
    loaded = load_config(str(CONFIGS / recipe))
    names = [name for key in loaded for name in groups(loaded[key], key)]
    assert {"train", "model", "optim", "dataloader.train", "graph", "vit.base", "data"} < set(names)
    with open(copies / recipe, "a") as file:
        file.writelines(f"{name}.set_here = 1\n" for name in names)
    changed = load_config(str(copies / recipe))
    for key in loaded:
        assert all(group.set_here == 1 for group in groups(changed[key], key).values())


@pytest.fixture
def imported_anew():
    """The configurations as modules are those of the test alone."""
    yield
    for name in [name for name in sys.modules if name.startswith("projects.MAE.configs")]:
        del sys.modules[name]


@pytest.mark.usefixtures("imported_anew")
@pytest.mark.parametrize("recipe", RECIPES)
@pytest.mark.parametrize("where", ["from .", "from projects.MAE.configs."])
def test_every_group_is_written_to_in_a_file_that_imports_it(copies, recipe, where):
    loaded = load_config(str(CONFIGS / recipe))
    file = copies / "own.py"
    keys = ", ".join(loaded)
    file.write_text(f"{where}{recipe[:-3]} import {keys}\n")
    with open(file, "a") as lines:
        lines.writelines(f"{key}.set_here = 1\n" for key in loaded)
    changed = load_config(str(file))
    assert all(changed[key].set_here == 1 for key in loaded)
