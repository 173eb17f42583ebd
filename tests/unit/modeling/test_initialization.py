"""Initial weights have the paper's statistics; models have the paper's sizes."""
import numpy as np
import oneflow as flow
import pytest
from libai.config import LazyConfig, instantiate

from projects.MAE.modeling.initialization import truncated_normal
from projects.MAE.modeling.losses import cross_entropy, masked_mse
from projects.MAE.modeling.mae import MaskedAutoencoderViT
from projects.MAE.modeling.vit import VisionTransformer
from tests.support.command import ROOT
from tests.support.golden_models import to_global


def weights(model):
    return {name: p.numpy() for name, p in model.named_parameters()}


def test_statistics():
    flow.manual_seed(0)
    sizes = dict(img_size=64, patch_size=8, embed_dim=192, depth=2, num_heads=3)
    arrays = weights(MaskedAutoencoderViT(**sizes, decoder_embed_dim=128, decoder_depth=1))
    for name, array in arrays.items():
        if name.endswith("token"):
            assert 0.015 < array.std() < 0.025, name
        elif name.endswith("bias"):
            assert not array.any(), name
        elif "norm" in name:
            assert (array == 1).all(), name
        elif "pos_embed" not in name:
            matrix = array.reshape(len(array), -1)
            bound = np.sqrt(6 / sum(matrix.shape))
            assert 0.99 * bound < np.abs(array).max() <= bound, name
            assert abs(array.std() / bound - 3**-0.5) < 0.01, name
    head = weights(VisionTransformer(**sizes, num_classes=100))["head.weight"]
    assert 1.9e-5 < head.std() < 2.1e-5
    drawn = truncated_normal(np.random.default_rng(0), (20_000,), 1.5)
    assert np.abs(drawn).max() <= 2 and np.abs(drawn).max() > 1.99


def test_initial_weights_depend_on_the_seed_alone():
    sizes = dict(img_size=16, patch_size=8, embed_dim=32, depth=1, num_heads=2)

    def draw(seed):
        flow.manual_seed(seed)
        return weights(VisionTransformer(**sizes))["blocks.0.mlp.dense_h_to_4h.weight"]

    first, other = draw(1), draw(2)
    np.testing.assert_array_equal(first, draw(1))
    assert not np.array_equal(first, other)


@pytest.mark.parametrize(
    "size, pretraining, classifier",
    [
        ("base", 111_907_840, 86_567_656),
        ("large", 329_541_888, 304_326_632),
        ("huge", 657_074_508, 632_045_800),
    ],
)
def test_parameter_counts_of_the_recipes(size, pretraining, classifier):
    for config, expected in (("mae_pretraining", pretraining), ("mae_finetune", classifier)):
        cfg = LazyConfig.load(str(ROOT / f"projects/MAE/configs/{config}.py"))
        cfg.vit.size = size
        model = instantiate(cfg.model)
        assert sum(np.prod(p.shape) for p in model.parameters()) == expected
        frozen = {name for name, p in model.named_parameters() if not p.requires_grad}
        assert frozen == ({"pos_embed", "decoder_pos_embed"} if config == "mae_pretraining" else set())


def test_losses_are_float32_for_half_precision_inputs():
    rng = np.random.default_rng(0)
    pred, target = (rng.standard_normal((2, 4, 48)).astype(np.float16) * 100 for _ in range(2))
    mask = np.array([[1, 0, 1, 1], [0, 1, 1, 1]], np.float32)
    loss, _ = masked_mse(to_global(pred), to_global(target), to_global(mask))
    error = ((pred.astype(np.float64) - target) ** 2).mean(axis=-1)  # beyond float16's range
    assert loss.dtype == flow.float32
    np.testing.assert_allclose(loss.numpy(), (error * mask).sum() / 6, rtol=1e-5)
    logits = rng.standard_normal((3, 5)).astype(np.float16)
    loss = cross_entropy(to_global(logits), to_global(np.array([0, 4, 2])))
    exact = logits.astype(np.float64)
    expected = np.log(np.exp(exact).sum(axis=1)) - exact[range(3), [0, 4, 2]]
    assert loss.dtype == flow.float32
    np.testing.assert_allclose(loss.numpy(), expected.mean(), rtol=1e-6)
