"""Checkpoints of LiBai's own projects/MAE (its main branch wrote libai_main.zip), both ways."""
import shutil
from types import SimpleNamespace

import numpy as np
import oneflow as flow
import pytest
from omegaconf import OmegaConf

from projects.MAE.checkpoint.card import differing_aims
from projects.MAE.checkpoint.names import find_checkpoint
from projects.MAE.checkpoint.reader import read_weights
from projects.MAE.convert_weights import main
from projects.MAE.engine.evaluate_weights import load_for_evaluation
from projects.MAE.errors import UserError
from projects.MAE.modeling.mae import MaskedAutoencoderViT
from projects.MAE.modeling.vit import VisionTransformer
from projects.MAE.weights.libai_names import OURS, from_libai_main, linear_layout, to_libai_main
from projects.MAE.weights.pretrained import load_pretrained, told_sizes, weight_style_of
from projects.MAE.weights.saved_model import load_autoencoder, load_classifier
from projects.MAE.weights.source import read_source
from projects.MAE.weights.write import write_libai
from tests.conftest import DATA
from tests.support.golden_models import to_global

ENCODER = dict(img_size=16, patch_size=8, embed_dim=16, depth=2, num_heads=2)
DECODER = dict(decoder_embed_dim=12, decoder_depth=1, decoder_num_heads=3)


@pytest.fixture
def runs(tmp_path):
    shutil.unpack_archive(DATA / "libai_main.zip", tmp_path)
    return tmp_path


def scores_of(model, runs):
    with flow.no_grad():
        images = to_global(np.load(runs / "images.npy"))
        return model.eval()(images)["prediction_scores"].numpy()


@pytest.mark.parametrize("kind", ["mean", "token"])
def test_a_classifier_gives_the_same_scores(runs, caplog, kind):
    saved = load_classifier(runs / kind)
    assert saved.sizes.global_pool is (kind == "mean") and saved.facts["num_heads"] == 2
    expected = np.load(runs / kind / "scores.npy")
    # LiBai's blocks have another eps.
    np.testing.assert_allclose(scores_of(saved.model, runs), expected, atol=2e-4)
    assert "LiBai's own projects/MAE" in caplog.text and "assumed" not in caplog.text


def test_without_its_configuration_the_pooling_is_assumed_aloud(runs, caplog):
    (runs / "mean" / "config.yaml").unlink()
    saved = load_classifier(runs / "mean", num_heads=2)
    np.testing.assert_allclose(
        scores_of(saved.model, runs), np.load(runs / "mean/scores.npy"), atol=2e-4
    )
    assert "assumed that its head averages the patches" in caplog.text


def test_an_autoencoder(runs):
    saved = load_autoencoder(runs / "mae")
    assert saved.facts["decoder_num_heads"] == 3 and saved.facts["norm_pix_loss"] is True


@pytest.mark.parametrize("name", ["model_final", "model_best", "model_0000009"])
def test_a_run_without_its_last_checkpoint(runs, name):
    """The file is gone, say when the run was copied: every command finds what is there."""
    run = runs / "mae"
    (run / "last_checkpoint").unlink()
    (run / "model_final").rename(run / name)
    assert read_source(run).path == str(run / name)
    assert weight_style_of(str(run)) == "oneflow"
    sizes = dict(img_size=16, patch_size=8, in_chans=3)
    assert told_sizes(str(run)) == (sizes, "the shapes of its tensors")


def test_finetuning_and_pretraining_from_one(runs):
    model = VisionTransformer(**ENCODER, num_classes=5)
    report = load_pretrained(model, str(runs / "mae"), "oneflow")
    assert report["new"] == ["fc_norm.weight", "fc_norm.bias", "head.weight", "head.bias"]
    report = load_pretrained(model, str(runs / "mean"), "oneflow")
    assert report["new"] == report["left"] == []
    expected = np.load(runs / "mean/scores.npy")
    np.testing.assert_allclose(scores_of(model, runs), expected, atol=2e-4)
    model = MaskedAutoencoderViT(**ENCODER, **DECODER)
    report = load_pretrained(model, str(runs / "mae"), "oneflow")
    assert report["new"] == report["left"] == []


def test_its_configuration_tells_the_heads(runs):
    model = VisionTransformer(**{**ENCODER, "num_heads": 4}, num_classes=5)
    with pytest.raises(UserError, match="its model has num_heads=2, this one model.num_heads=4"):
        load_pretrained(model, str(runs / "mae"), "oneflow")


@pytest.mark.parametrize("kind", ["mae", "mean", "token"])
def test_converting_there_gives_what_libai_wrote(runs, tmp_path, capsys, kind):
    between, back = tmp_path / "ours", tmp_path / "back" / "model_final"
    assert main([str(runs / kind), str(between), "--to", "libai"]) == 0
    assert linear_layout(read_weights(between), "") == OURS
    assert main([str(between), str(back), "--to", "libai-main"]) == 0
    out = capsys.readouterr().out
    pool = {"mae": "", "mean": ", model.global_pool=True", "token": ", model.global_pool=False"}[kind]
    assert f"there: model.num_heads=2{pool}; " in out
    theirs, ours = read_weights(runs / kind / "model_final"), read_weights(back)
    assert set(theirs) == set(ours)
    for name, array in theirs.items():
        np.testing.assert_array_equal(ours[name], array)
    # LiBai loads every entry of a checkpoint folder as a part.
    assert [entry.name for entry in back.iterdir()] == ["model"]
    shutil.rmtree(runs / kind)
    state = read_source(between).state
    for name, array in read_source(back).state.items():
        np.testing.assert_array_equal(array, state[name])


def test_a_mixture_of_layouts_is_refused(runs, tmp_path):
    weights = read_weights(find_checkpoint(runs / "mae"))
    name = "blocks.1.self_attention.query_key_value.weight"
    weights[name] = np.ascontiguousarray(weights[name].T)
    write_libai(str(tmp_path / "mixed"), weights, {})
    with pytest.raises(UserError, match="mixed: blocks.1.*they are of two LiBais"):
        read_source(tmp_path / "mixed")


def test_there_and_back_is_exact(runs):
    weights = read_weights(find_checkpoint(runs / "mean"))
    again = to_libai_main(from_libai_main(weights, global_pool=True))
    assert set(again) == set(weights)
    assert all((again[name] == array).all() for name, array in weights.items())


@pytest.mark.parametrize("name", ["cls_token", "mask_token"])
def test_a_token_that_is_a_number(runs, tmp_path, name):
    weights = {**read_weights(find_checkpoint(runs / "mae")), name: np.float32(1).reshape(())}
    write_libai(str(tmp_path / "bad"), weights, {})
    with pytest.raises(UserError, match=f"bad: {name} has shape"):
        read_source(tmp_path / "bad")


def test_a_card_that_the_disk_does_not_read(runs):
    checkpoint = runs / "mae" / "model_final"
    # A file that opens, and whose first byte no system gives.
    (checkpoint / "model" / "model_card.json").symlink_to("/proc/self/mem")
    with pytest.raises(UserError, match="model_card.json"):
        read_source(checkpoint)


def test_force_replaces_a_link_and_spares_what_it_leads_to(runs, tmp_path):
    link, kept = tmp_path / "link", tmp_path / "kept"
    shutil.copytree(runs / "token" / "model_final", kept)
    link.symlink_to(kept)
    assert main([str(runs / "mae"), str(link), "--to", "libai", "--force"]) == 0
    assert not link.is_symlink() and "mask_token" in read_weights(link)
    assert "head.weight" in read_weights(kept)
    assert not [entry for entry in tmp_path.iterdir() if entry.name.startswith(".link")]


@pytest.mark.parametrize("kind, pool", [("mean", True), ("token", False)])
@pytest.mark.parametrize("key", ["train.load_weight", "finetune.path"])
def test_evaluating_one(runs, key, kind, pool):
    cfg = OmegaConf.create(dict(model=dict(num_heads=2, global_pool=pool), train=dict(load_weight="")))
    cfg.finetune = dict(enable=True, weight_style="oneflow", path="")
    OmegaConf.update(cfg, key, str(runs / kind))
    model = VisionTransformer(**ENCODER, num_classes=5, global_pool=pool)
    load_for_evaluation(SimpleNamespace(cfg=cfg, resumes=False), model)
    expected = np.load(runs / kind / "scores.npy")
    np.testing.assert_allclose(scores_of(model, runs), expected, atol=2e-4)


@pytest.mark.parametrize(
    "kind, pool, classes, wanted",
    [
        ("token", True, 5, "set model.global_pool=False, as its head has it"),
        ("token", True, 7, "set model.global_pool=False model.num_classes=5, as its head has it"),
        ("mean", True, 7, "set model.num_classes=5, as its head has it"),
    ],
)
def test_evaluating_a_head_that_does_not_fit(runs, tmp_path, kind, pool, classes, wanted):
    file = str(tmp_path / "vit.safetensors")
    assert main([str(runs / kind), file, "--to", "timm"]) == 0
    cfg = OmegaConf.create(dict(model=dict(num_heads=2, global_pool=pool, num_classes=classes)))
    cfg.train, cfg.finetune = dict(load_weight=""), dict(enable=True, weight_style=None, path=file)
    model = VisionTransformer(**ENCODER, num_classes=classes, global_pool=pool)
    with pytest.raises(UserError, match=wanted):
        load_for_evaluation(SimpleNamespace(cfg=cfg, resumes=False), model)


def test_evaluating_one_on_other_pixels(runs):
    """Its loss is of normalised patches: that on plain ones would be a number of another kind."""
    cfg = OmegaConf.create(dict(model=dict(num_heads=2, norm_pix_loss=False, mask_ratio=0.5)))
    cfg.train = dict(load_weight=str(runs / "mae"))
    model = MaskedAutoencoderViT(**ENCODER, **DECODER)
    with pytest.raises(UserError, match="was trained with True: set model.norm_pix_loss=True"):
        load_for_evaluation(SimpleNamespace(cfg=cfg, resumes=False), model)
    (line,) = differing_aims(dict(norm_pix_loss=None, mask_ratio=0.75), cfg.model)
    assert line == "was trained with mask_ratio=0.75: model.mask_ratio=0.5 is used"


def test_evaluating_one_with_another_pooling(runs):
    cfg = OmegaConf.create(dict(model=dict(num_heads=2, global_pool=False)))
    cfg.train = dict(load_weight=str(runs / "mean"))
    model = VisionTransformer(**ENCODER, num_classes=5, global_pool=False)
    with pytest.raises(UserError, match="was trained with True: set model.global_pool=True"):
        load_for_evaluation(SimpleNamespace(cfg=cfg, resumes=False), model)
