"""Stochastic depth agrees with the authors' code, given its draws: logits, loss, gradients, eight steps.

`finetune_drop_path.npz`: `drop_path_noise` is [step, sample, 2 * block + branch].
"""
import numpy as np
import pytest

from projects.MAE.modeling.vit import VisionTransformer
from projects.MAE.optim.param_groups import param_groups_lrd
from projects.MAE.weights.libai_names import libai_to_torch
from tests.support.golden_models import load, part, to_global
from tests.unit.modeling.test_golden import close
from tests.unit.modeling.test_golden_training import MODES, assert_same_end, run


@pytest.fixture(scope="module")
def data(golden):
    return golden("finetune_drop_path")


def model_of(data):
    sizes = dict(img_size=32, patch_size=8, embed_dim=32, depth=3, num_heads=4, num_classes=10)
    model = VisionTransformer(**sizes, drop_path_rate=0.3, global_pool=True)
    return load(model, part(data, "state/"), num_heads=4).train()


def batches(data):
    fields = zip(data["images"], data["soft_targets"], data["drop_path_noise"])
    names = ("images", "labels", "drop_path_noise")
    return [{n: to_global(a) for n, a in zip(names, arrays)} for arrays in fields]


def test_first_step(data):
    model, batch = model_of(data), batches(data)[0]
    labels = batch.pop("labels")
    close(model.head(model.forward_features(**batch)).detach().numpy(), data["train_logits"], 1e-5)
    loss = model(labels=labels, **batch)["losses"]
    np.testing.assert_allclose(loss.detach().numpy(), data["loss"], rtol=1e-6)
    loss.backward()
    gradients = {n: p.grad.numpy() for n, p in model.named_parameters()}
    gradients, expected = libai_to_torch(gradients, num_heads=4), part(data, "grad/")
    assert set(gradients) == set(expected)
    for name in expected:
        close(gradients[name], expected[name], 1e-4)


@pytest.mark.parametrize("mode, accumulation", MODES)
def test_eight_steps(data, mode, accumulation):
    model = model_of(data)
    groups = param_groups_lrd(model, 0.05, 0.65)
    ending = run(model, groups, batches(data), mode, 2e-3, 1e-6, (0.9, 0.999), accumulation)
    assert_same_end(*ending, data)
