"""The configurations hold the paper's recipes."""
import pytest
from omegaconf import OmegaConf

from projects.MAE.data.preprocessing import described_preprocessing, standard_preprocessing
from projects.MAE.errors import UserError
from projects.MAE.modeling.linear_probe import LinearProbe
from projects.MAE.optim.lars import LARS
from projects.MAE.runtime.lazy_call import instantiate
from projects.MAE.settings.load import load_config
from tests.support.command import ROOT

CONFIGS = ROOT / "projects/MAE/configs"


def load(name, *overrides):
    return load_config(str(CONFIGS / name), overrides)


@pytest.mark.parametrize("size", ["base", "large", "huge"])
def test_pretraining(size):
    cfg = load("mae_pretraining.py", f"vit.size={size}")
    sizes = dict(base=(16, 768, 12, 12), large=(16, 1024, 24, 16), huge=(14, 1280, 32, 16))
    model = cfg.model
    assert (model.patch_size, model.embed_dim, model.depth, model.num_heads) == sizes[size]
    assert (model.decoder_embed_dim, model.decoder_depth, model.decoder_num_heads) == (512, 8, 16)
    assert model.mask_ratio == 0.75 and model.norm_pix_loss
    train = cfg.train
    assert train.train_micro_batch_size * train.num_accumulation_steps * 8 == 4096
    assert (train.base_lr, train.train_epoch, train.warmup_epoch) == (1.5e-4, 800, 40)
    assert list(cfg.optim.betas) == [0.9, 0.95] and cfg.optim.params.weight_decay == 0.05
    assert "clip_grad_max_norm" not in cfg.optim.params
    assert train.scheduler.min_lr == 0
    crop, flip, _ = cfg.dataloader.train.dataset[0].transform.transforms
    assert list(crop.scale) == [0.2, 1.0] and crop.size == 224 and flip.p == 0.5
    assert not instantiate(crop).clamp


@pytest.mark.parametrize(
    "size, base_lr, epochs, layer_decay, drop_path",
    [("base", 5e-4, 100, 0.65, 0.1), ("large", 1e-3, 50, 0.75, 0.2), ("huge", 1e-3, 50, 0.75, 0.3)],
)
def test_finetuning(size, base_lr, epochs, layer_decay, drop_path):
    cfg = load("mae_finetune.py", f"vit.size={size}")
    train = cfg.train
    assert train.train_micro_batch_size * train.num_accumulation_steps * 8 == 1024
    assert (train.base_lr, train.train_epoch, train.warmup_epoch) == (base_lr, epochs, 5)
    assert cfg.optim.params.layer_decay == layer_decay
    assert cfg.model.drop_path_rate == cfg.dataloader.train.dataset[0].drop_path_rate == drop_path
    assert cfg.dataloader.train.dataset[0].depth == cfg.model.depth
    assert cfg.model.global_pool and cfg.model.num_classes == 1000
    assert list(cfg.optim.betas) == [0.9, 0.999] and cfg.optim.params.weight_decay == 0.05
    assert train.scheduler.min_lr == 1e-6
    mixup = cfg.dataloader.train.mixup
    assert (mixup.mixup_alpha, mixup.cutmix_alpha, mixup.label_smoothing) == (0.8, 1.0, 0.1)
    transforms = cfg.dataloader.train.dataset[0].transform.transforms
    augment, erasing = transforms[2], transforms[4]
    assert (augment.num_layers, augment.magnitude, augment.magnitude_std) == (2, 9, 0.5)
    assert erasing.probability == 0.25
    resize, crop, _ = cfg.dataloader.test[0].dataset.transform.transforms
    assert instantiate(resize).size == 256 and crop.size == 224


@pytest.mark.parametrize("size, epochs", [("base", 90), ("large", 50), ("huge", 50)])
def test_linear_probing(size, epochs):
    cfg = load("mae_linprobe.py", f"vit.size={size}")
    train = cfg.train
    assert train.train_micro_batch_size * train.num_accumulation_steps * 8 == 16384
    assert (train.base_lr, train.train_epoch, train.warmup_epoch) == (0.1, epochs, 10)
    assert cfg.optim.momentum == 0.9 and cfg.optim.params.weight_decay == 0.0
    assert cfg.optim["_target_"] is LARS and cfg.model["_target_"] is LinearProbe
    assert train.scheduler.min_lr == 0 and not cfg.model.global_pool
    assert cfg.model.num_classes == 1000 and cfg.dataloader.train.mixup is None
    crop, flip, _ = cfg.dataloader.train.dataset[0].transform.transforms
    assert list(crop.scale) == [0.08, 1.0] and crop.size == 224 and flip.p == 0.5 and crop.clamp
    resize, crop, _ = cfg.dataloader.test[0].dataset.transform.transforms
    assert instantiate(resize).size == 256 and crop.size == 224


def test_overrides_win_and_keep_their_types():
    cfg = load("mae_finetune.py", "model.drop_path_rate=0.3", "train.output_dir=a b/[c]", "optim.lr=null")
    assert cfg.model.drop_path_rate == 0.3 and cfg.optim.lr is None
    assert cfg.train.output_dir == "a b/[c]"
    assert load("mae_finetune.py", "optim.eps=1e-6").optim.eps == 1e-6  # an argument not yet set


@pytest.mark.parametrize("override", ["model.dpeth=3", "dataloader.train.dataset.1.root=x", "x=1"])
def test_wrong_keys_are_errors(override):
    with pytest.raises(UserError, match="unknown key"):
        load("mae_finetune.py", override)


@pytest.mark.parametrize("recipe", ["mae_pretraining.py", "mae_finetune.py", "mae_linprobe.py"])
@pytest.mark.parametrize("size, resized", [(96, 109), (224, 256), (240, 240), (384, 384), (448, 448)])
def test_evaluation_takes_the_whole_image_above_224_pixels(recipe, size, resized):
    """As the authors' util/datasets.py: crop_pct = 224 / 256 up to input_size 224, else 1.0."""
    cfg = load(recipe, f"model.img_size={size}", "model.patch_size=16")
    steps = cfg.dataloader.test[0].dataset.transform.transforms
    assert instantiate(steps[0]).size == resized
    told = described_preprocessing(OmegaConf.to_container(steps, resolve=True))
    assert told == standard_preprocessing(size) and told.resize == resized
