"""Eight AdamW steps end with the weights that the authors' code ends with."""
import numpy as np
import oneflow as flow
import pytest

from projects.MAE.modeling.graph import TrainGraph
from projects.MAE.optim.param_groups import param_groups_lrd, param_groups_weight_decay
from projects.MAE.optim.schedule import warmup_cosine_lr
from projects.MAE.weights.libai_names import libai_to_torch
from tests.support.golden_models import part, tiny_mae, tiny_vit, to_global


def run(model, groups, batches, mode, peak, min_lr, betas, accumulation=1):
    """Train a step a batch; the losses and the final weights under the authors' names."""
    optimizer = flow.optim.AdamW(groups, lr=peak, betas=betas)
    scheduler = warmup_cosine_lr(optimizer, max_iter=8, warmup_iter=2, min_lr=min_lr)
    model.train()
    graph = TrainGraph(model, optimizer, scheduler, grad_acc_steps=accumulation)
    losses = []
    for batch in batches:
        if mode == "graph":
            losses.append(graph(**batch)["losses"].numpy().mean())
        else:
            micro_batches = split(batch, accumulation)
            micro = [model(**part_)["losses"] for part_ in micro_batches]
            for loss in micro:
                (loss / accumulation).backward()
            losses.append(np.mean([loss.numpy() for loss in micro]))
            optimizer.step()
            optimizer.zero_grad()
            scheduler.step()
    weights = {name: p.numpy() for name, p in model.named_parameters()}
    heads = dict(num_heads=4, decoder_num_heads=4)
    return losses, libai_to_torch(weights, **heads)


def split(batch, parts):
    size = len(next(iter(batch.values()))) // parts
    return [{k: v[i * size : (i + 1) * size] for k, v in batch.items()} for i in range(parts)]


def assert_same_end(losses, weights, golden):
    np.testing.assert_allclose(losses, golden["train/losses"], rtol=1e-4)
    expected = part(golden, "train/final_state/")
    assert set(weights) == set(expected)
    for name, array in expected.items():
        actual = weights[name]
        if name.endswith("attn.qkv.bias"):
            # The key's part has no influence on a softmax, so its gradient is rounding alone,
            # and Adam makes a step of any size of it.
            array, actual = (x.reshape(3, -1)[[0, 2]] for x in (array, actual))
        error = np.linalg.norm(actual - array) / max(np.linalg.norm(array), 1e-12)
        assert error < 1e-4, (name, error)


MODES = [("graph", 1), ("eager", 1), ("graph", 2), ("eager", 2)]


@pytest.mark.parametrize("mode, accumulation", MODES)
def test_pretraining(golden, mode, accumulation):
    data = golden("pretrain_tiny")
    model = tiny_mae(data, norm_pix_loss=True)
    batches = [
        dict(images=to_global(images), noise=to_global(noise))
        for images, noise in zip(data["images"], data["noise"])
    ]
    groups = param_groups_weight_decay(model, 0.05)
    ending = run(model, groups, batches, mode, 1.5e-3, 0.0, (0.9, 0.95), accumulation)
    assert_same_end(*ending, data)


@pytest.mark.parametrize("mode, accumulation", MODES)
def test_finetuning_with_layer_decay(golden, mode, accumulation):
    data = golden("finetune_tiny")
    model = tiny_vit(data, global_pool=True)
    batches = [
        dict(images=to_global(images), labels=to_global(targets))
        for images, targets in zip(data["images"], data["soft_targets"])
    ]
    groups = param_groups_lrd(model, 0.05, 0.65)
    ending = run(model, groups, batches, mode, 2e-3, 1e-6, (0.9, 0.999), accumulation)
    assert_same_end(*ending, data)
