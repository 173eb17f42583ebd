"""Settings of a recipe can be changed as attributes: in a copy of its file and in what imports it."""
import shutil

import pytest
from omegaconf import DictConfig

from projects.MAE.settings.load import load_config
from tests.support.command import ROOT

CONFIGS = ROOT / "projects/MAE/configs"
RECIPES = sorted(path.name for path in CONFIGS.glob("*.py"))


@pytest.fixture
def copies(tmp_path):
    """A copy of the configurations, for a test to write into."""
    return shutil.copytree(CONFIGS, tmp_path / "configs")


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


@pytest.mark.parametrize("recipe", RECIPES)
def test_every_group_is_written_to_behind_a_star_import_in_any_folder(tmp_path, recipe):
    loaded = load_config(str(CONFIGS / recipe))
    names = [name for key in loaded for name in groups(loaded[key], key)]
    (tmp_path / "any folder").mkdir()
    own = tmp_path / "any folder" / "own.py"
    lines = "".join(f"{name}.set_here = 1\n" for name in names)
    own.write_text(f"from projects.MAE.configs.{recipe[:-3]} import *\n{lines}")
    changed = load_config(str(own))
    assert set(changed) == set(loaded)
    for key in loaded:
        assert all(group.set_here == 1 for group in groups(changed[key], key).values())
    # What one configuration writes is not there for the next.
    assert all("set_here" not in load_config(str(CONFIGS / recipe))[key] for key in loaded)


PASTED = """
finetune.enable = True
finetune.weight_style = "oneflow"
finetune.path = "some/run"
"""


@pytest.mark.parametrize("recipe", RECIPES)
def test_the_lines_of_libais_readme_are_pasted_into_a_recipe(copies, tmp_path, recipe):
    expected = dict(enable=True, weight_style="oneflow", path="some/run", ema=False)
    with open(copies / recipe, "a") as file:
        file.write(PASTED)
    assert load_config(str(copies / recipe)).finetune == expected
    (tmp_path / "own.py").write_text(f"from projects.MAE.configs.{recipe[:-3]} import *\n{PASTED}")
    assert load_config(str(tmp_path / "own.py")).finetune == expected
