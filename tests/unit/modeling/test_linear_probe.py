"""The linear probe against NumPy: batch statistics, LARS, and what is frozen."""
import numpy as np
import oneflow as flow
import pytest
from safetensors.numpy import save_file

from projects.MAE.engine.probe import FrozenEncoder
from projects.MAE.errors import UserError
from projects.MAE.modeling.global_tensors import batch_sbp
from projects.MAE.modeling.graph import TrainGraph
from projects.MAE.modeling.initialization import named_tensors
from projects.MAE.modeling.linear_probe import FeatureNorm, LinearProbe
from projects.MAE.optim.lars import LARS
from projects.MAE.optim.param_groups import param_groups_weight_decay
from projects.MAE.optim.schedule import warmup_cosine_lr
from projects.MAE.runtime.micro_batches import join_batch, split_batch
from projects.MAE.weights.pretrained import load_pretrained
from tests.support.short_graphs import launched

EPS = 1e-6
SIZES = dict(
    img_size=32, patch_size=8, embed_dim=32, depth=2, num_heads=4, mlp_ratio=4.0, num_classes=5
)


def to_global(array):
    return flow.from_numpy(array).to_global(placement=flow.placement("cpu", [0]), sbp=batch_sbp())


@pytest.fixture
def probe():
    flow.manual_seed(3)
    return LinearProbe(**SIZES)


@pytest.fixture
def batches():
    """Three batches of 12 images and labels."""
    rng = np.random.default_rng(0)
    return [
        (rng.standard_normal((12, 3, 32, 32), np.float32), rng.integers(0, 5, 12)) for _ in range(3)
    ]


class NumpyBatchNorm:
    """BatchNorm1d(affine=False) as PyTorch documents it, in float64."""

    def __init__(self, width):
        self.mean, self.var = np.zeros(width), np.ones(width)

    def train(self, x):
        mean, n = x.mean(0), len(x)
        self.mean = 0.9 * self.mean + 0.1 * mean
        self.var = 0.9 * self.var + 0.1 * x.var(0) * n / (n - 1)
        return (x - mean) / np.sqrt(x.var(0) + EPS)

    def eval(self, x):
        return (x - self.mean) / np.sqrt(self.var + EPS)


def test_feature_norm_is_pytorchs_batch_norm():
    rng = np.random.default_rng(0)
    ours, theirs = FeatureNorm(7, layer_idx=0), NumpyBatchNorm(7)
    for _ in range(4):
        x = (rng.standard_normal((10, 7)) * 3 + 20).astype(np.float32)
        np.testing.assert_allclose(ours(to_global(x)).numpy(), theirs.train(x), atol=2e-5)
        ours.follow()
    ours.eval()
    np.testing.assert_allclose(ours(to_global(x)).numpy(), theirs.eval(x), atol=2e-5)
    np.testing.assert_allclose(ours.running_mean.numpy(), theirs.mean, rtol=1e-6)
    np.testing.assert_allclose(ours.running_var.numpy(), theirs.var, rtol=1e-5)


@pytest.mark.oracle
def test_feature_norm_and_its_reference_are_torchs_batch_norm():
    torch = pytest.importorskip("torch")
    rng = np.random.default_rng(1)
    norm = torch.nn.BatchNorm1d(7, affine=False, eps=EPS)
    ours, reference = FeatureNorm(7, layer_idx=0), NumpyBatchNorm(7)
    for _ in range(3):
        x = rng.standard_normal((10, 7), np.float32)
        expected = norm(torch.from_numpy(x)).numpy()
        np.testing.assert_allclose(ours(to_global(x)).numpy(), expected, atol=1e-5)
        ours.follow()
        np.testing.assert_allclose(reference.train(x), expected, atol=1e-5)
    np.testing.assert_allclose(ours.running_mean.numpy(), norm.running_mean.numpy(), atol=1e-6)
    np.testing.assert_allclose(ours.running_var.numpy(), norm.running_var.numpy(), rtol=1e-5)


def reference_training(x, y, weight, bias, lrs, weight_decay):
    """Steps of LARS with momentum on softmax regression behind a batch normalisation, float64."""
    norm, velocity = NumpyBatchNorm(x[0].shape[1]), [0.0, 0.0]
    weight, bias, losses = weight.astype(np.float64), bias.astype(np.float64), []
    for features, labels, lr in zip(x, y, lrs):
        z = norm.train(features.astype(np.float64))
        logits = z @ weight + bias
        p = np.exp(logits - logits.max(1, keepdims=True))
        p /= p.sum(1, keepdims=True)
        rows = np.arange(len(labels))
        losses.append(-np.log(p[rows, labels]).mean())
        p[rows, labels] -= 1
        step = z.T @ p / len(labels) + weight_decay * weight
        step *= 0.001 * np.linalg.norm(weight) / np.linalg.norm(step)
        velocity = [0.9 * v + g for v, g in zip(velocity, (step, p.mean(0)))]
        weight, bias = weight - lr * velocity[0], bias - lr * velocity[1]
    return losses, weight, bias, norm


@pytest.mark.oracle
def test_the_reference_is_torchs_training():
    torch = pytest.importorskip("torch")
    rng = np.random.default_rng(2)
    x = [rng.standard_normal((12, 8)) for _ in range(5)]
    y = [rng.integers(0, 4, 12) for _ in range(5)]
    start, lrs = rng.standard_normal((8, 4)) * 0.1, [0.0, 5.0, 6.0, 4.0, 2.0]
    norm = torch.nn.BatchNorm1d(8, affine=False, eps=EPS).double()
    weight, bias = torch.tensor(start, requires_grad=True), torch.zeros(4).double().requires_grad_()
    optimizer = torch.optim.SGD([weight, bias], lr=1.0, momentum=0.9)
    losses = []
    for features, labels, lr in zip(map(torch.tensor, x), map(torch.tensor, y), lrs):
        optimizer.param_groups[0]["lr"] = lr
        optimizer.zero_grad()
        loss = torch.nn.functional.cross_entropy(norm(features) @ weight + bias, labels)
        loss.backward()
        with torch.no_grad():
            decayed = weight.grad + 0.1 * weight
            weight.grad = 0.001 * decayed * weight.norm() / decayed.norm()
        optimizer.step()
        losses.append(loss.item())
    expected, ours, our_bias, _ = reference_training(x, y, start, np.zeros(4), lrs, 0.1)
    np.testing.assert_allclose(losses, expected, rtol=1e-12)
    np.testing.assert_allclose(weight.detach().numpy(), ours, atol=1e-12)
    np.testing.assert_allclose(bias.detach().numpy(), our_bias, atol=1e-12)


@pytest.mark.parametrize("weight_decay", [0.0, 0.1])
def test_training_follows_the_reference_while_the_rate_changes(probe, batches, weight_decay):
    optimizer = LARS(param_groups_weight_decay(probe, weight_decay), lr=6.0)
    scheduler = warmup_cosine_lr(optimizer, max_iter=3, warmup_iter=1)
    features = [probe.forward_features(to_global(images)).numpy() for images, _ in batches]
    start = probe.head.weight.numpy().copy(), probe.head.bias.numpy().copy()
    losses, lrs = [], []
    for images, labels in batches:
        lrs.append(optimizer.param_groups[0]["lr"])
        loss = probe(to_global(images), to_global(labels))["losses"]
        loss.backward()
        optimizer.step()
        probe.feature_norm.follow()
        optimizer.zero_grad()
        scheduler.step()
        losses.append(float(loss.numpy()))
    assert lrs[0] == 0.0 and lrs[1] == 6.0 and lrs[2] < 6.0
    expected, weight, bias, norm = reference_training(
        features, [labels for _, labels in batches], *start, lrs, weight_decay
    )
    np.testing.assert_allclose(losses, expected, rtol=1e-5)
    np.testing.assert_allclose(probe.head.weight.numpy(), weight, atol=1e-6)
    np.testing.assert_allclose(probe.head.bias.numpy(), bias, atol=1e-5)
    np.testing.assert_allclose(probe.feature_norm.running_mean.numpy(), norm.mean, atol=1e-5)


def test_lars_takes_a_zero_weight_and_a_zero_gradient_as_they_are():
    for start, gradient, expected in [(0.0, 2.0, -2.0), (3.0, 0.0, 3.0)]:
        weight = flow.nn.Parameter(to_global(np.full((2, 2), start, np.float32)))
        (weight * gradient).sum().backward()
        LARS([weight], lr=1.0).step()
        np.testing.assert_array_equal(weight.numpy(), np.full((2, 2), expected))


def test_lars_refuses_a_graph(probe, batches):
    graph = TrainGraph(probe, LARS(param_groups_weight_decay(probe, 0.0), lr=1.0), None)
    with pytest.raises(UserError, match="graph.enabled=False"):
        graph(images=to_global(batches[0][0]), labels=to_global(batches[0][1]))


def test_the_head_alone_is_trained(probe, batches):
    before = {name: tensor.numpy().copy() for name, tensor in named_tensors(probe).items()}
    optimizer = LARS(param_groups_weight_decay(probe, 0.0), lr=1.0)
    assert sum(len(group.parameters) for group in optimizer.param_groups) == 2
    probe(to_global(batches[0][0]), to_global(batches[0][1]))["losses"].backward()
    optimizer.step()
    probe.feature_norm.follow()
    changed = {n for n, t in named_tensors(probe).items() if (t.numpy() != before[n]).any()}
    statistics = {"feature_norm.running_mean", "feature_norm.running_var"}
    assert changed == {"head.weight", "head.bias"} | statistics
    # An image's features are the same whatever stands beside it in the batch.
    images = batches[0][0]
    alone = probe.forward_features(to_global(images[:1])).numpy()
    np.testing.assert_allclose(probe.forward_features(to_global(images)).numpy()[:1], alone, atol=1e-5)


def test_the_features_are_the_class_token_of_the_pretrained_encoder(golden, tmp_path):
    """The classifier on the class token of the golden vectors, seen through the probe's parts."""
    vectors = golden("finetune_tiny")
    weights = {
        name.split("/", 2)[2]: value
        for name, value in vectors.items()
        if name.startswith("cls_token/state/")
    }
    path = str(tmp_path / "weights.safetensors")
    save_file({n: np.ascontiguousarray(v) for n, v in weights.items()}, path)
    sizes = dict(SIZES, depth=3, num_classes=10)
    probe = LinearProbe(**sizes)
    report = load_pretrained(probe, path, "pytorch")
    assert set(report["new"]) == {
        "head.weight",
        "head.bias",
        "feature_norm.running_mean",
        "feature_norm.running_var",
    }
    features = probe.forward_features(to_global(vectors["images"][0])).numpy()
    logits = features @ weights["head.weight"].T + weights["head.bias"]
    expected = vectors["cls_token/logits"]
    np.testing.assert_allclose(logits, expected.reshape(-1, *logits.shape)[0], atol=1e-5)


def test_the_initial_head(probe):
    flow.manual_seed(3)
    wide = LinearProbe(**dict(SIZES, num_classes=1000))
    assert abs(wide.head.weight.numpy().std() - 0.01) < 5e-4
    assert not wide.head.bias.numpy().any()


def frozen_encoder():
    """A case of tests/support/short_graphs.py."""
    flow.manual_seed(0)
    images = np.random.default_rng(0).standard_normal((2, 3, 32, 32), np.float32)
    return {"probe": (FrozenEncoder(LinearProbe(**SIZES)), dict(images=to_global(images)), False)}


def test_the_encoder_in_a_graph_gives_the_same_features(tmp_path):
    encoder, inputs, _ = frozen_encoder()["probe"]
    found = launched(f"{__name__}:frozen_encoder", tmp_path)["probe"]["features"]
    np.testing.assert_allclose(found, encoder(**inputs).numpy(), atol=1e-6)


def test_joining_is_the_inverse_of_splitting():
    x = to_global(np.arange(24, dtype=np.float32).reshape(12, 2))
    parts = [part["x"] for part in split_batch({"x": x}, 3)]
    np.testing.assert_array_equal(join_batch(parts).numpy(), x.numpy())
