"""The table of rules: every setting of the recipes has one, and it refuses nothing that is valid."""
import pathlib

import numpy as np
import pytest
from omegaconf import DictConfig

from projects.MAE.errors import UserError
from projects.MAE.settings import rules as setting_rules
from projects.MAE.settings.check_each import rule_of, settings
from projects.MAE.settings.check_together import check_settings
from projects.MAE.settings.load import expand_home, load_config
from tests.support.command import CONFIGS, ROOT

RECIPES = sorted((ROOT / CONFIGS).glob("*.py"))


def load(recipe, *overrides):
    cfg = load_config(str(recipe), overrides)
    cfg.finetune.enable = False  # its weights are not here
    return cfg


@pytest.mark.parametrize("size", ["base", "large", "huge"])
@pytest.mark.parametrize("recipe", RECIPES, ids=lambda path: path.stem)
def test_recipes_are_right_and_every_setting_has_a_rule(recipe, size):
    cfg = load(recipe, f"vit.size={size}")
    check_settings(cfg, eval_only=False)
    for key, name, value in settings(cfg):
        whole_list = name[:-2] if name.endswith(".*") else name
        is_ruled = isinstance(value, DictConfig) or rule_of(name) or rule_of(whole_list)
        assert is_ruled, f"{key}: no rule for {name} in settings/rules.py"


@pytest.mark.parametrize(
    "override",
    [
        "train.train_epoch=0.5",
        "train.warmup_ratio=0.05",
        "train.warmup_epoch=2.5",
        "train.checkpointer.save_model_after_n_epoch=0.5",
        "train.evaluation.eval_period=null",
        "train.load_weight=null",
        "train.base_lr=1",
        "optim.lr=0",
        "optim.betas=[0,0.95]",
        "model.mlp_ratio=3",
        "dataloader.train.num_workers=0",
        "dataloader.train.dataset.0.transform.transforms.0.scale=[1,1]",
        "train.dist.custom_pipeline_stage_id=[0,0,0,0]",
    ],
)
def test_unusual_settings_that_are_right(override):
    overrides = ["train.warmup_epoch=0", override]
    check_settings(load(ROOT / CONFIGS / "quickstart_pretraining.py", *overrides), eval_only=False)


def test_numbers_and_paths_of_a_users_own_kind():
    cfg = load(ROOT / CONFIGS / "quickstart_pretraining.py")
    cfg.train.output_dir = pathlib.Path("output/own")
    assert setting_rules.whole(1).fits(np.int64(3)) and setting_rules.number(above=0).fits(np.float32(1))
    assert not setting_rules.whole(1).fits(np.bool_(True))
    check_settings(cfg, eval_only=False)


class OwnDataset:
    def __init__(self, root, transform, **options):
        pass


def test_a_users_own_nodes_and_classes_may_hold_anything():
    from libai.config import LazyCall

    cfg = load(ROOT / CONFIGS / "quickstart_pretraining.py")
    cfg.experiment = dict(seed=-1, notes=None, sizes=[])
    cfg.train.notes = "the first"
    cfg.dataloader.train.dataset = [LazyCall(OwnDataset)(root=".", transform=None, seed="x")]
    check_settings(cfg, eval_only=False)


def test_planning_refuses_the_same_settings():
    from projects.MAE.plan import run

    with pytest.raises(UserError, match="model.depth=0 must be a whole number of at least 1"):
        run([str(ROOT / CONFIGS / "mae_pretraining.py"), "2", "model.depth=0"])


def test_the_home_folder_is_written_out(monkeypatch):
    monkeypatch.setenv("HOME", "/home/someone")
    paths = ["train.output_dir=~/run", "finetune.path=~/weights.pth", "train.load_weight=a/~/b"]
    cfg = load(ROOT / CONFIGS / "mae_finetune.py", *paths)
    expand_home(cfg)
    assert cfg.train.output_dir == "/home/someone/run"
    assert cfg.finetune.path == "/home/someone/weights.pth" and cfg.train.load_weight == "a/~/b"
