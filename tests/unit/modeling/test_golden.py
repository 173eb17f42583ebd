"""Forward, loss and gradient agree with the authors' code (tests/golden, see docs/paper.md)."""
import numpy as np
import pytest
from oneflow import nn

from projects.MAE.modeling.pos_embed import sincos_pos_embed_2d
from projects.MAE.weights.libai_names import libai_to_torch
from tests.conftest import load_golden
from tests.support.short_graphs import launched
from tests.support.golden_models import part, tiny_mae, tiny_vit, to_global


def close(actual, expected, rtol):
    """Within rtol of the largest expected magnitude: float rounding is relative to the sums."""
    scale = np.abs(expected).max() or 1.0
    np.testing.assert_allclose(actual, expected, rtol=0, atol=rtol * scale)


@pytest.fixture(scope="module")
def pretrain(golden):
    return golden("pretrain_tiny")


def batch(golden, step=0):
    return to_global(golden["images"][step]), to_global(golden["noise"][step])


def forward_cases():
    """The models and inputs of the forward passes, as tests/support/short_graphs.py takes them."""
    pretrain, finetune = load_golden("pretrain_tiny"), load_golden("finetune_tiny")
    images, noise = batch(pretrain)
    cases = {}
    for norm_pix in (True, False):
        inputs = dict(images=images, noise=noise)
        cases[f"pretraining {norm_pix}"] = (tiny_mae(pretrain, norm_pix), inputs, False)
    for pool in (True, False):
        inputs = dict(images=to_global(finetune["images"][0]))
        cases[f"classifier {pool}"] = (tiny_vit(finetune, pool), inputs, False)
    return cases


def in_eager_mode(cases):
    return {
        case: {name: tensor.numpy() for name, tensor in model.eval()(**inputs).items()}
        for case, (model, inputs, _) in cases.items()
    }


@pytest.fixture(scope="module", params=["eager", "graph"])
def outputs(request, tmp_path_factory):
    """{case: {name: array}} of all `forward_cases`."""
    if request.param == "eager":
        return in_eager_mode(forward_cases())
    return launched(f"{__name__}:forward_cases", tmp_path_factory.mktemp("graphs"))


@pytest.mark.parametrize("norm_pix", [True, False])
def test_pretraining_forward(pretrain, outputs, norm_pix):
    outputs = outputs[f"pretraining {norm_pix}"]
    close(outputs["pred"], pretrain["pred"], 1e-5)
    np.testing.assert_array_equal(outputs["mask"], pretrain["mask"])
    expected = pretrain["norm_pix/loss" if norm_pix else "raw_pix/loss"]
    np.testing.assert_allclose(outputs["losses"], expected, rtol=1e-6)
    np.testing.assert_allclose(outputs["sample_losses"].mean(), expected, rtol=1e-6)


def test_encoder(pretrain):
    images, noise = batch(pretrain)
    latent, mask, ids_restore = tiny_mae(pretrain, True).eval().forward_encoder(images, noise)
    close(latent.numpy(), pretrain["latent"], 1e-5)
    np.testing.assert_array_equal(mask.numpy(), pretrain["mask"])
    np.testing.assert_array_equal(ids_restore.numpy(), pretrain["ids_restore"])


class GradientGraph(nn.Graph):
    """A backward pass whose gradients come out as an SGD step of rate 1."""

    def __init__(self, model, optimizer):
        super().__init__()
        self.model = model
        self.add_optimizer(optimizer)

    def build(self, images, noise):
        losses = self.model(images, noise)["losses"]
        losses.backward()
        return losses


@pytest.mark.parametrize("mode", ["eager", "graph"])
def test_gradients(pretrain, mode):
    import oneflow as flow

    model = tiny_mae(pretrain, True).train()
    images, noise = batch(pretrain)
    trained = {n: p for n, p in model.named_parameters() if p.requires_grad}
    if mode == "eager":
        model(images, noise)["losses"].backward()
        gradients = {n: p.grad.numpy() for n, p in trained.items()}
    else:
        before = {n: p.numpy().astype(np.float64) for n, p in trained.items()}
        scale = 1000.0  # keeps the difference of two float32 weights precise
        GradientGraph(model, flow.optim.SGD(list(trained.values()), lr=scale))(images, noise)
        gradients = {n: (before[n] - p.numpy()) / scale for n, p in trained.items()}
    gradients = libai_to_torch(gradients, num_heads=4, decoder_num_heads=4)
    expected = part(pretrain, "grad/")
    assert set(gradients) == set(expected)
    for name in expected:
        # A key's bias has no influence on a softmax: its true gradient is zero, what is left
        # of it is rounding, so every tensor is held to the scale of its kind.
        close(gradients[name], expected[name], 1e-4)


@pytest.mark.parametrize("global_pool", [True, False])
def test_classifier_logits(golden, outputs, global_pool):
    prefix = "global_pool" if global_pool else "cls_token"
    scores = outputs[f"classifier {global_pool}"]["prediction_scores"]
    close(scores, golden("finetune_tiny")[f"{prefix}/logits"], 1e-5)


def test_position_embeddings(golden):
    expected = golden("pos_embed")  # some rows of each
    for key, dim, grid, first in [("base14", 768, 14, 0), ("dec14", 512, 14, 177), ("huge16", 1280, 16, 100)]:
        rows = expected[key]
        close(sincos_pos_embed_2d(dim, grid)[first : first + len(rows)], rows, 1e-6)
