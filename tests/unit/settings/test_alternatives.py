"""Of two settings that mean one thing the user's counts; finetune.path alone is enough."""
import json
import shutil

import numpy as np
import pytest
from safetensors.numpy import save_file

from projects.MAE.engine.setup import configure
from projects.MAE.errors import UserError
from projects.MAE.settings.load import load_config
from projects.MAE.train_net import parse_arguments
from projects.MAE.weights.libai_names import torch_to_libai
from projects.MAE.weights.pretrained import load_pretrained
from projects.MAE.weights.write import write_libai
from tests.conftest import DATA
from tests.support.command import CONFIGS, ROOT
from tests.support.golden_models import part

RECIPE = ROOT / CONFIGS / "mae_pretraining.py"
EPOCHS, PERIOD = "train.checkpointer.save_model_after_n_epoch", "train.checkpointer.period"
# (a recipe, one of a pair as the user sets it, the recipe's that gives way)
PAIRS = [
    ("mae_pretraining", PERIOD, 7, EPOCHS, None),
    ("mae_pretraining", "train.visualize.period", 7, "train.visualize.after_n_epoch", None),
    ("mae_pretraining", "train.train_iter", 7, "train.train_epoch", 0),
    ("mae_pretraining", "train.warmup_ratio", 0.5, "train.warmup_epoch", 0),
    ("mae_pretraining", "optim.lr", 0.5, "train.base_lr", None),
    ("mae_finetune", "train.evaluation.eval_period", 7, "train.evaluation.eval_after_n_epoch", None),
    ("quickstart_finetune", "train.train_iter", 7, "train.train_epoch", 0),
]


def value(cfg, key):
    for name in key.split("."):
        cfg = cfg[name]
    return cfg


@pytest.mark.parametrize("where", ["command line", "file", "update"])
@pytest.mark.parametrize("recipe, key, ours, other, off", PAIRS)
def test_the_users_wins_over_the_recipes(tmp_path, where, recipe, key, ours, other, off):
    file, group, name = tmp_path / "own.py", *key.rsplit(".", 1)
    line = f"{group}.update({name}={ours})" if where == "update" else f"{key} = {ours}"
    file.write_text(
        f"from projects.MAE.configs.{recipe} import *\n" + line * (where != "command line") + "\n"
    )
    said = []
    cfg = load_config(str(file), [f"{key}={ours}"] * (where == "command line"), said)
    assert value(cfg, key) == ours and value(cfg, other) == off
    assert [line for line in said if "gives way" in line and f"{key}={ours}" in line and other in line]


def test_the_command_line_wins_over_a_file_and_files_over_what_they_import(tmp_path):
    base, own = tmp_path / "base.py", tmp_path / "own.py"
    base.write_text(f"from projects.MAE.configs.mae_pretraining import *\n{PERIOD} = 7\n")
    names = "data, dataloader, finetune, graph, model, optim, train, vit"
    own.write_text(f"from .base import {names}\n{EPOCHS} = 3\n")
    cfg = load_config(str(own))
    assert (value(cfg, PERIOD), value(cfg, EPOCHS)) == (0, 3)
    cfg = load_config(str(own), [f"{PERIOD}=5"])
    assert (value(cfg, PERIOD), value(cfg, EPOCHS)) == (5, None)
    cfg = load_config(str(own), [f"{PERIOD}=0"])  # not set
    assert (value(cfg, PERIOD), value(cfg, EPOCHS)) == (0, 3)


@pytest.mark.parametrize("in_file", [True, False])
def test_both_of_them_are_an_error(tmp_path, in_file):
    lines = [f"{PERIOD}=7", f"{EPOCHS}=3"]
    file = tmp_path / "own.py"
    text = "from projects.MAE.configs.mae_pretraining import *\n"
    file.write_text(text + "\n".join(lines) * in_file)
    with pytest.raises(UserError) as caught:
        load_config(str(file), [] if in_file else lines)
    way_out = f"leave one of them out, or set {PERIOD}=0 or {EPOCHS}=null"
    assert str(caught.value) == f"{PERIOD}=7 and {EPOCHS}=3 mean one thing: {way_out}"


@pytest.mark.parametrize("group", ["train.checkpointer.period = 7", "own = dict(a=1)"])
def test_all_of_a_recipe_may_be_imported_relatively(tmp_path, group):
    shutil.copytree(RECIPE.parent, tmp_path / "configs")
    base, own = tmp_path / "configs/base.py", tmp_path / "configs/deeper/own.py"
    own.parent.mkdir()
    base.write_text(f"from .mae_pretraining import *\n{group}\n")
    own.write_text("from ..base import *\ntrain.train_iter = 9\n")
    said = []
    cfg = load_config(str(own), [], said)
    assert (cfg.train.train_iter, cfg.train.train_epoch) == (9, 0)
    assert ("own" in cfg and cfg.own.a == 1) or (value(cfg, PERIOD), value(cfg, EPOCHS)) == (7, None)
    assert len(said) == (1 if "own" in cfg else 2)
    own.write_text(own.read_text() + "train.train_epoch = 3\n")
    with pytest.raises(UserError, match="mean one thing"):
        load_config(str(own))


WARMUP, RATIO = "train.warmup_epoch", "train.warmup_ratio"


def test_no_warm_up_on_the_command_line_wins_over_a_share_in_a_file(tmp_path):
    own, said = tmp_path / "own.py", []
    own.write_text(f"from projects.MAE.configs.mae_pretraining import *\n{RATIO} = 0.1\n")
    cfg = load_config(str(own), [f"{WARMUP}=0"], said)
    assert (value(cfg, WARMUP), value(cfg, RATIO)) == (0, None)
    assert said == [f"{RATIO}=0.1 gives way to {WARMUP}=0, which was set over it"]
    own.write_text(own.read_text() + f"{WARMUP} = 0\n")  # the other one of a pair, not set
    assert value(load_config(str(own)), RATIO) == 0.1


@pytest.mark.parametrize("in_file", [True, False])
@pytest.mark.parametrize("ours, other", [("train.train_iter", "train.train_epoch"), (RATIO, WARMUP)])
def test_null_is_not_set(tmp_path, in_file, ours, other):
    own, lines = tmp_path / "own.py", [f"{ours}=1", f"{other}=%s" % ("None" if in_file else "null")]
    text = "from projects.MAE.configs.mae_pretraining import *\n"
    own.write_text(text + "\n".join(lines) * in_file)
    cfg = load_config(str(own), [] if in_file else lines)
    assert (value(cfg, ours), value(cfg, other)) == (1, 0)


@pytest.mark.parametrize("key", ["eval_period", "eval_after_n_epoch"])
def test_a_time_of_evaluation_without_evaluation_is_said_to_have_no_effect(tmp_path, key):
    own, line = tmp_path / "own.py", f"train.evaluation.{key}=3"
    own.write_text(f"from projects.MAE.configs.mae_pretraining import *\n{line}\n")
    for config, overrides in ((own, []), (RECIPE, [line])):
        said = []
        load_config(str(config), overrides, said)
        assert said == [f"{line} has no effect: train.evaluation.enabled=False"]
    said = []
    quickstart = RECIPE.with_name("quickstart_pretraining.py")
    load_config(str(quickstart), ["train.evaluation.enabled=False"], said)
    assert not said


def run_of(*words):
    return configure(parse_arguments(["--config-file", *map(str, words), "train.device=cpu"]), 1)


@pytest.fixture
def images(image_folder):
    return f"dataloader.train.dataset.0.root={image_folder}"


SIZES = ["model.embed_dim=32", "model.depth=2", "model.num_heads=4"]
DECODER = ["model.decoder_embed_dim=24", "model.decoder_depth=2", "model.decoder_num_heads=4"]


@pytest.fixture
def checkpoint(golden, tmp_path):
    path = tmp_path / "checkpoint"
    state = part(golden("pretrain_tiny"), "state/")
    write_libai(str(path), torch_to_libai(state, 4, 4), dict(img_size=32, patch_size=8, num_heads=4))
    return path


TAKEN = ["model.img_size=32", "model.patch_size=8"]


def test_a_path_alone_is_enough(checkpoint, images):
    for recipe, sizes in ((RECIPE, [*SIZES, *DECODER]), (RECIPE.with_name("mae_finetune.py"), SIZES)):
        run = run_of(recipe, images, *sizes, f"finetune.path={checkpoint}")
        assert run.cfg.finetune.enable is True and run.cfg.finetune.weight_style == "oneflow"
        assert (run.cfg.model.img_size, run.cfg.model.patch_size) == (32, 8)
        for taken in TAKEN:
            assert f"{taken}, as its model card says ({checkpoint}): nobody has set another" in run.said


def test_of_two_weights_to_evaluate_one_is_said_not_to_be_used(checkpoint, images):
    weights = [f"finetune.path={checkpoint}", f"train.load_weight={checkpoint}/model"]
    run = run_of(RECIPE, images, *SIZES, *DECODER, *TAKEN, *weights, "--eval-only")
    assert f"finetune.path={checkpoint} is not used: {weights[1]} is evaluated" in run.said


def test_sizes_of_the_best_alone_are_taken_to_resume_from_it(checkpoint, images):
    (checkpoint / "model_best").mkdir()
    shutil.move(str(checkpoint / "model"), str(checkpoint / "model_best"))
    run = run_of(RECIPE, images, *SIZES, *DECODER, f"train.output_dir={checkpoint}", "--resume")
    assert (run.cfg.model.img_size, run.cfg.model.patch_size) == (32, 8)


def test_averaged_weights_that_are_not_used_are_told(checkpoint, images, tmp_path):
    line, ema = "finetune.ema=True is not used", ["finetune.ema=True", *SIZES, *DECODER]
    run = run_of(RECIPE, images, *ema, "finetune.enable=False")
    assert f"{line}: finetune.enable=False" in run.said
    weights = [f"finetune.path={tmp_path / 'w.pth'}", "finetune.weight_style=pytorch"]
    (tmp_path / "w.pth").touch()  # which is not read
    resumed = [f"train.output_dir={checkpoint}", "--resume"]
    run = run_of(RECIPE, images, *ema, *TAKEN, *weights, *resumed)
    assert f"{line}: --resume goes on from train.output_dir={checkpoint}" in run.said


def test_sizes_that_the_user_has_set_stay(checkpoint, images, tmp_path):
    sizes = [*SIZES, f"finetune.path={checkpoint}"]
    own_sizes = ["model.img_size=224", "model.patch_size=8"]
    run = run_of(RECIPE.with_name("mae_finetune.py"), images, *sizes, *own_sizes)
    assert (run.cfg.model.img_size, run.cfg.model.patch_size) == (224, 8)
    own = tmp_path / "own.py"
    own.write_text("from projects.MAE.configs.mae_finetune import *\nmodel.img_size = 224\n")
    run = run_of(own, images, *sizes)
    assert (run.cfg.model.img_size, run.cfg.model.patch_size) == (224, 8)


def test_what_a_file_is_and_its_sizes_are_read_from_it(images):
    path = DATA / "weights/training_full.pth"
    heads = ["model.embed_dim=8", "model.depth=1", "model.num_heads=2"]
    run = run_of(RECIPE.with_name("mae_finetune.py"), images, *heads, f"finetune.path={path}")
    assert run.cfg.finetune.weight_style == "pytorch"
    assert (run.cfg.model.img_size, run.cfg.model.patch_size) == (8, 4)
    assert any("the shapes of its tensors" in line for line in run.said)


def test_images_of_other_channels_are_refused_at_the_start(golden, images, tmp_path):
    state = part(golden("pretrain_tiny"), "state/")
    name = "patch_embed.proj.weight"
    file = tmp_path / "grey.safetensors"
    save_file({**state, name: np.ascontiguousarray(state[name][:, :1])}, file)
    with pytest.raises(UserError, match="its images have 1 channels, model.in_chans=3: take other"):
        run_of(RECIPE, images, *SIZES, *DECODER, f"finetune.path={file}")


def test_weights_of_another_kind_are_no_checkpoint_to_evaluate(images):
    file = DATA / "weights/training_full.pth"
    with pytest.raises(UserError, match="no LiBai checkpoint: name .* as finetune.path"):
        run_of(RECIPE, images, *SIZES, *DECODER, f"train.load_weight={file}", "--eval-only")


def test_the_style_is_a_check(checkpoint, images):
    file = DATA / "weights/training_full.pth"
    for path, style, found in ((checkpoint, "pytorch", "oneflow"), (file, "oneflow", "pytorch")):
        wrong = [f"finetune.path={path}", f"finetune.weight_style={style}"]
        with pytest.raises(UserError, match=f"style={style}: set .*={found}, or leave it out"):
            run_of(RECIPE, images, *SIZES, *DECODER, *TAKEN, *wrong)


WAYS = ["finetune = {'path': %r}", "finetune = dict(path=%r)", "finetune.path = %r"]


@pytest.mark.parametrize("text", WAYS)
@pytest.mark.parametrize("recipe", ["mae_pretraining", "mae_finetune"])
def test_however_a_file_writes_it(checkpoint, tmp_path, text, recipe):
    own = tmp_path / "own.py"
    own.write_text(f"from projects.MAE.configs.{recipe} import *\n" + text % str(checkpoint))
    cfg = load_config(str(own))
    assert cfg.finetune == dict(enable=True, weight_style=None, path=str(checkpoint), ema=False)


def test_a_path_on_the_command_line_wins_over_enable_in_a_file(tmp_path):
    own, said = tmp_path / "own.py", []
    recipe = "from projects.MAE.configs.mae_pretraining import *\n"
    own.write_text(f"{recipe}finetune = dict(enable=False)\n")
    assert load_config(str(own), ["finetune.path=x"], said).finetune.enable is True
    assert "finetune.path was set, so finetune.enable=True" in said
    off = ["finetune.path=x", "finetune.enable=False"]
    assert load_config(str(own), off, said).finetune.enable is False
    assert said[-1] == "finetune.path=x is not used: finetune.enable=False"


def test_a_setting_that_nothing_reads_is_told(images, tmp_path):
    own = tmp_path / "own.py"
    lines = ["train.epochs = 3", "train.dist.nodes = 2", "finetune.weights = 'x'"]
    lines += ["data.size = dict(a=1)"]
    used = "train.own = dict(note=3)\ntrain.seed = '${train.own.note}'\n"
    own.write_text("from projects.MAE.configs.mae_pretraining import *\n" + used + "\n".join(lines))
    told = [line for line in run_of(own, images).said if "is no setting of this program" in line]
    assert [line.split("=")[0] for line in told] == [
        *("data.size", "train.dist.nodes", "train.epochs", "finetune.weights"),
    ]


def test_a_folder_may_be_named_by_a_number():
    root = "dataloader.train.dataset.0.root"
    given = [f"{root}=2012", "train.output_dir=1e3", "finetune.path=007", "train.seed=3"]
    cfg = load_config(str(RECIPE), given)
    assert cfg.dataloader.train.dataset[0].root == "2012" and cfg.train.seed == 3
    assert cfg.train.output_dir == "1e3" and cfg.finetune.path == "007"


def test_a_size_that_others_refer_to_is_checked_first():
    for recipe in ("mae_finetune", "mae_linprobe", "mae_pretraining"):
        with pytest.raises(UserError, match="vit.size=tiny must be base or large or huge"):
            load_config(str(RECIPE.with_name(f"{recipe}.py")), ["vit.size=tiny"])
    with pytest.raises(UserError, match="train.train_iter: Interpolation key 'nothing.here' not found"):
        load_config(str(RECIPE), ["train.train_iter=${nothing.here}"])


def test_a_path_may_hold_a_comma():
    root, path = "dataloader.train.dataset.0.root", "/data/a,b"
    paths = [f"{root}={path}", "finetune.path=run(1,2),b"]
    cfg = load_config(str(RECIPE), [*paths, "optim.betas=[0.5,0.6]"])
    assert cfg.dataloader.train.dataset[0].root == path and cfg.finetune.path == "run(1,2),b"
    assert cfg.optim.betas == [0.5, 0.6]


def test_the_path_of_a_configuration_may_hold_an_equals_sign(tmp_path):
    folder = tmp_path / "lr=1"
    folder.mkdir()
    config = folder / "own=1.py"
    config.write_text("from projects.MAE.configs.mae_pretraining import *\n")
    args = parse_arguments(["--config-file", str(config), "train.seed=3"])
    assert args.config_file == str(config) and args.opts == ["train.seed=3"]


def test_weights_load_whatever_they_are(checkpoint, golden):
    from tests.unit.weights.test_pretrained import autoencoder

    assert load_pretrained(autoencoder(), str(checkpoint))["new"] == []
    assert json.loads((checkpoint / "model/model_card.json").read_text())["patch_size"] == 8
