"""Gradient clipping acts by the norm of all gradients, whatever the parameter groups."""
import numpy as np
import oneflow as flow
import pytest

from projects.MAE.errors import UserError
from projects.MAE.modeling.graph import TrainGraph
from projects.MAE.optim.clipping import clip_gradients, clipping_of
from projects.MAE.optim.param_groups import param_groups_lrd, param_groups_weight_decay
from projects.MAE.optim.schedule import warmup_cosine_lr
from tests.support.golden_models import tiny_vit, to_global
from tests.unit.modeling.test_golden_training import split

RATE, DECAY, LAYER_DECAY, BETAS, STEPS = 2e-3, 0.05, 0.65, (0.9, 0.999), 4


def batches_of(data):
    pairs = zip(data["images"][:STEPS], data["soft_targets"])
    return [dict(images=to_global(x), labels=to_global(y)) for x, y in pairs]


def reference(data, max_norm, norm_type):
    """Torch's `clip_grad_norm_` and AdamW (arXiv 1711.05101) in float64; the gradients are the model's.

    Returns:
        {name: weight} at the end, and the norms before clipping.
    """
    model = tiny_vit(data, global_pool=True).train()
    groups = param_groups_lrd(model, DECAY, LAYER_DECAY)
    own = {id(p): (g["lr_scale"], g["weight_decay"]) for g in groups for p in g["params"]}
    m, v, norms = {}, {}, []
    for t, batch in enumerate(batches_of(data), start=1):
        model(**batch)["losses"].backward()
        gradients = {n: p.grad.numpy().astype(np.float64) for n, p in model.named_parameters()}
        flat = np.concatenate([g.ravel() for g in gradients.values()])
        norms.append(np.linalg.norm(flat, norm_type))
        factor = min(1.0, max_norm / (norms[-1] + 1e-6))
        for name, p in model.named_parameters():
            scale, decay = own[id(p)]
            g, x = gradients[name] * factor, p.numpy().astype(np.float64)
            m[name] = BETAS[0] * m.get(name, 0) + (1 - BETAS[0]) * g
            v[name] = BETAS[1] * v.get(name, 0) + (1 - BETAS[1]) * g * g
            x = x * (1 - RATE * scale * decay)
            step = m[name] / (1 - BETAS[0] ** t) / (np.sqrt(v[name] / (1 - BETAS[1] ** t)) + 1e-3)
            p.copy_(to_global((x - RATE * scale * step).astype(np.float32)))
            p.grad = None
    return {name: p.numpy() for name, p in model.named_parameters()}, norms


@pytest.mark.parametrize("mode", ["graph", "eager"])
@pytest.mark.parametrize("accumulation", [1, 2])
@pytest.mark.parametrize("norm_type", [2.0, 1.0])
def test_a_step_is_the_reference_s(golden, mode, accumulation, norm_type):
    data = golden("finetune_tiny")
    _, norms = reference(data, np.inf, norm_type)
    max_norm = float(np.sort(norms)[1:3].mean())  # of some steps, not of others
    expected, norms = reference(data, max_norm, norm_type)
    assert min(norms) < max_norm < max(norms)

    model = tiny_vit(data, global_pool=True).train()
    groups = param_groups_lrd(model, DECAY, LAYER_DECAY, max_norm, norm_type)
    optimizer = flow.optim.AdamW(groups, lr=RATE, betas=BETAS, eps=1e-3)
    graph = TrainGraph(model, optimizer, None, grad_acc_steps=accumulation)
    for batch in batches_of(data):
        if mode == "graph":
            graph(**batch)
            continue
        for group in optimizer.param_groups:
            group["lr"] = RATE * group["lr_scale"]
        for micro in split(batch, accumulation):
            (model(**micro)["losses"] / accumulation).backward()
        clip_gradients(optimizer, clipping_of(optimizer))
        optimizer.step()
        optimizer.zero_grad()
    for name, p in model.named_parameters():
        error = np.linalg.norm(p.numpy() - expected[name])
        assert error < 1e-4 * np.linalg.norm(expected[name]) + 1e-7, (name, error)


def test_a_clip_that_is_never_reached_changes_nothing(golden):
    """In a graph, rates, decay and schedule are each group's own when all are clipped as one."""
    data, ends = golden("finetune_tiny"), []
    for max_norm in (None, 1e9):
        model = tiny_vit(data, global_pool=True).train()
        optimizer = flow.optim.AdamW(param_groups_lrd(model, DECAY, LAYER_DECAY, max_norm), lr=RATE)
        schedule = warmup_cosine_lr(optimizer, max_iter=STEPS, warmup_iter=2, min_lr=1e-6)
        graph = TrainGraph(model, optimizer, schedule)
        for batch in batches_of(data):
            graph(**batch)
        ends.append({name: p.numpy() for name, p in model.named_parameters()})
    for name, expected in ends[0].items():
        np.testing.assert_allclose(ends[1][name], expected, rtol=1e-5, atol=1e-7, err_msg=name)


class One:
    """A model with a weight and a bias, for parameter groups."""

    def named_parameters(self):
        yield "weight", flow.nn.Parameter(to_global(np.ones((2, 2), np.float32)))
        yield "bias", flow.nn.Parameter(to_global(np.ones(2, np.float32)))


def test_groups_say_nothing_of_it_unless_asked():
    plain = param_groups_weight_decay(One())
    assert all(set(group) == {"params", "lr_scale", "weight_decay"} for group in plain)
    assert clipping_of(flow.optim.AdamW(plain)) is None
    assert clipping_of(flow.optim.AdamW(param_groups_weight_decay(One(), 0.05, 3))) == (3, 2.0)


def test_groups_that_differ_are_refused():
    groups = param_groups_weight_decay(One(), 0.05, 3.0)
    groups[0]["clip_grad_max_norm"] = 4.0
    with pytest.raises(UserError, match="the same clip_grad_max_norm"):
        clipping_of(flow.optim.AdamW(groups))
