"""A run follows from its configuration: the recipe's, or one that an earlier run has written."""
import dataclasses
import threading

import pytest
from omegaconf import OmegaConf
from omegaconf.errors import ReadonlyConfigError

from projects.MAE.engine.setup import configure
from projects.MAE.engine.trainer import configuration_for_libai
from projects.MAE.settings.load import load_config, save_config, writable
from projects.MAE.settings.run import Schedule, schedule_of
from projects.MAE.train_net import parse_arguments
from tests.support.command import CONFIGS, ROOT

SAMPLES = 1437


def run_of(config, *overrides, ranks=1):
    """What a command line says of a run on `SAMPLES` images."""
    argv = ["--config-file", str(config), "train.device=cpu", *overrides]
    run = configure(parse_arguments(argv), ranks)
    return dataclasses.replace(run, schedule=schedule_of(run.cfg, run.batch, SAMPLES))


@pytest.fixture
def images(image_folder):
    return f"dataloader.train.dataset.0.root={image_folder}"


RECIPES = ["quickstart_pretraining.py", "mae_pretraining.py"]
OVERRIDES = [
    ["train.train_epoch=1", "train.warmup_epoch=0"],
    ["train.global_batch_size=32", "train.train_micro_batch_size=null"],
    ["train.train_iter=7", "train.train_epoch=0", "train.warmup_ratio=0.5"],
    ["model.depth=6", "model.img_size=48", "optim.lr=0.1"],
    ["train.dist.pipeline_parallel_size=2"],
]


@pytest.mark.parametrize("ranks", [1, 4])
@pytest.mark.parametrize("overrides", OVERRIDES)
@pytest.mark.parametrize("recipe", RECIPES)
def test_from_its_own_configuration_it_is_the_run_of_the_recipe(
    images, tmp_path, recipe, overrides, ranks
):
    if any("pipeline" in override for override in overrides) and ranks == 1:
        ranks = 2
    first = run_of(ROOT / CONFIGS / recipe, images, "train.seed=3", ranks=2)
    save_config(first.cfg, str(tmp_path / "config.yaml"))
    again = run_of(tmp_path / "config.yaml", *overrides, ranks=ranks)
    expected = run_of(
        ROOT / CONFIGS / recipe, images, "train.seed=3", *overrides, ranks=ranks
    )
    for field in ("device", "layout", "batch", "half_precision", "schedule", "task"):
        assert getattr(again, field) == getattr(expected, field), field
    save_config(expected.cfg, str(tmp_path / "expected.yaml"))
    save_config(again.cfg, str(tmp_path / "again.yaml"))
    assert (tmp_path / "again.yaml").read_text() == (tmp_path / "expected.yaml").read_text()


def test_an_epoch_the_rate_and_the_warmup_follow_the_batch(images):
    quickstart = ROOT / CONFIGS / "quickstart_pretraining.py"
    half = ["train.global_batch_size=32", "train.train_epoch=2", "train.warmup_epoch=1"]
    assert run_of(quickstart, images, *half).schedule == Schedule(SAMPLES, 90, 45, 1e-3)
    whole = ["train.train_epoch=2", "train.warmup_epoch=1", "train.base_lr=4e-3"]
    assert run_of(quickstart, images, *whole).schedule == Schedule(SAMPLES, 45, 23, 1e-3)
    longer = ["train.train_iter=50", "train.warmup_ratio=0.1", "optim.lr=0.5"]
    assert run_of(quickstart, images, *longer).schedule == Schedule(SAMPLES, 50, 5, 0.5)
    shorter = ["train.train_epoch=0", "train.train_iter=7", "train.warmup_epoch=1", "optim.lr=0.5"]
    assert run_of(quickstart, images, *shorter).schedule == Schedule(SAMPLES, 7, 7, 0.5)


def test_nobody_writes_into_it(images):
    run = run_of(ROOT / CONFIGS / "quickstart_pretraining.py", images)
    for node in (run.cfg, run.cfg.train, run.cfg.model):
        with pytest.raises(ReadonlyConfigError):
            node.seed = 1
    with pytest.raises(dataclasses.FrozenInstanceError):
        run.device = "cuda"
    before = OmegaConf.to_yaml(writable(run.cfg).train.dist)
    libais = configuration_for_libai(run)  # LiBai's trainer writes into what it gets
    libais.train.dist.tensor_parallel_size = 7
    libais.train.start_iter = 3
    assert OmegaConf.to_yaml(writable(run.cfg).train.dist) == before and "start_iter" not in run.cfg.train
    assert libais.train.train_iter == run.schedule.iterations


@pytest.mark.parametrize("value", [threading.Lock(), lambda x: x], ids=["lock", "lambda"])
def test_a_configuration_that_yaml_can_not_hold(images, tmp_path, value):
    """It ends no run: LiBai says so, and writes what it can as a pickle."""
    cfg = writable(run_of(ROOT / CONFIGS / "quickstart_pretraining.py", images).cfg)
    cfg.model._set_flag("allow_objects", True)
    cfg.model.norm_layer = value
    save_config(cfg, str(tmp_path / "config.yaml"))
    names = {path.name for path in tmp_path.iterdir()}
    assert "config.yaml.pkl" in names <= {"config.yaml", "config.yaml.pkl"}


def test_calls_of_modules_that_have_moved_are_found(images, tmp_path):
    run = run_of(ROOT / CONFIGS / "quickstart_pretraining.py", images)
    save_config(run.cfg, str(tmp_path / "config.yaml"))
    text = (tmp_path / "config.yaml").read_text()
    former = text.replace("projects.MAE.optim.schedule", "projects.MAE.utils.scheduler")
    former = former.replace("projects.MAE.optim.param_groups", "projects.MAE.utils.lr_decay")
    assert former.count("projects.MAE.utils.") == 2
    (tmp_path / "config.yaml").write_text(former)
    cfg = load_config(str(tmp_path / "config.yaml"))
    assert cfg.train.scheduler._target_ == "projects.MAE.optim.schedule.warmup_cosine_lr"
    assert cfg.optim.params._target_ == "projects.MAE.optim.param_groups.param_groups_weight_decay"
    assert run_of(tmp_path / "config.yaml").schedule == run.schedule
