"""What a transformer block leaves out changes neither what is asked of it nor its gradients."""
import numpy as np
import oneflow as flow
import pytest

from projects.MAE.modeling.initialization import initialize
from projects.MAE.modeling.layer_kinds import TransformerLayerOfRows, layer_kinds
from tests.support.golden_models import to_global

N, LENGTH, WIDTH = 6, 10, 16


@pytest.fixture(scope="module", params=["for this device", "plain"])
def block(request):
    plain = request.param == "plain"
    TransformerLayer = TransformerLayerOfRows if plain else layer_kinds().TransformerLayer
    layer = TransformerLayer(WIDTH, 4, 4.0, 1e-6, drop_path_prob=0.5, layer_idx=0)
    initialize(layer, seed=1, head_std=0.02)
    return layer.train()


def random(*shape, seed):
    return np.random.default_rng(seed).standard_normal(shape).astype(np.float32)


def results(block, wanted, drops):
    """What `wanted` makes of the block, and the gradients of the input and of all parameters."""
    x = to_global(random(N, LENGTH, WIDTH, seed=2)).requires_grad_()
    noise = np.linspace(0, 0.99, 2 * N, dtype=np.float32).reshape(2, N).T  # half are dropped
    y = wanted(block, x, to_global(noise) if drops else None)
    (y * to_global(random(*y.shape, seed=3))).sum().backward()
    leaves = {"x": x, **dict(block.named_parameters())}
    found = {"y": y.detach().numpy(), **{name: leaf.grad.numpy() for name, leaf in leaves.items()}}
    for leaf in leaves.values():
        leaf.grad = None
    return found


IDS = np.stack([np.random.default_rng(i).permutation(LENGTH)[:4] for i in range(N)])
FORMS = {
    "ids": (
        lambda block, x, noise: block(x, noise, ids=to_global(IDS)),
        lambda block, x, noise: flow.stack(
            [block(x, noise)[i, IDS[i].tolist()] for i in range(N)], dim=0
        ),
    ),
    "slice": (
        lambda block, x, noise: block(x, noise, ids=slice(0, 1)),
        lambda block, x, noise: block(x, noise)[:, :1],
    ),
    "pool": (
        lambda block, x, noise: block(x, noise, pool=True),
        lambda block, x, noise: block(x, noise)[:, 1:].mean(dim=1),
    ),
}


@pytest.mark.parametrize("drops", [False, True])
@pytest.mark.parametrize("form", FORMS)
def test_the_result_is_that_of_all_tokens(block, form, drops):
    less, whole = (results(block, wanted, drops) for wanted in FORMS[form])
    assert set(less) == set(whole) and abs(whole["x"]).max() > 0.01
    for name, expected in whole.items():
        scale = max(1.0, abs(expected).max())
        np.testing.assert_allclose(less[name], expected, atol=1e-5 * scale, err_msg=name)
