"""A peer's process: steps of a PyTorch model when told to. Started by train_step.py.

    python peer_step.py pytorch|transformers|timm train|inference BATCH THREADS
    python peer_step.py check VECTORS      compares the peers with golden vectors and ends
"""
import json
import os
import sys
import time

import numpy as np
import torch
from turns import Turns, end_with_parent

import peer_models

BATCHES = 2  # prepared in advance and used in turn
TUNING_STEPS = 3


def tensors(batch, **shapes):
    """Dicts of uniform random tensors in [0, 1), the same in every run."""
    generator = torch.Generator().manual_seed(0)
    return [
        {name: torch.rand(batch, *shape, generator=generator) for name, shape in shapes.items()}
        for _ in range(BATCHES)
    ]


def decayed(model):
    """Two parameter groups: 1-D parameters don't decay, as in the recipe."""
    trained = [p for p in model.parameters() if p.requires_grad]
    return [
        {"params": [p for p in trained if p.ndim > 1], "weight_decay": 0.05},
        {"params": [p for p in trained if p.ndim <= 1], "weight_decay": 0.0},
    ]


def fastest_adamw(groups, betas, run_backward):
    """The AdamW, foreach or fused, whose update is faster here; and its name."""
    best = None
    for kind in ("foreach", "fused"):
        copies = [dict(group) for group in groups]
        optimizer = torch.optim.AdamW(copies, lr=1e-6, betas=betas, **{kind: True})
        run_backward()
        optimizer.step()  # makes the state
        start = time.perf_counter()
        for _ in range(TUNING_STEPS):
            optimizer.step()
        seconds = time.perf_counter() - start
        if best is None or seconds < best[0]:
            best = seconds, kind, optimizer
    return best[2], best[1]


def training(model, batches, groups, betas, loss_of):
    """-> (function of the step's number that runs it, name of the optimizer)."""
    model.train()

    def backward(i):
        loss = loss_of(model, batches[i % BATCHES])
        loss.backward()
        return loss

    optimizer, kind = fastest_adamw(groups, betas, lambda: backward(0))
    optimizer.zero_grad(set_to_none=True)

    def step(i):
        loss = backward(i)
        optimizer.step()
        optimizer.zero_grad(set_to_none=True)
        return loss.item()

    return step, kind


def pretraining(model, batch):
    batches = tensors(batch, images=(3, 224, 224), noise=(196,))
    return training(model, batches, decayed(model), (0.9, 0.95), lambda m, b: m(**b))


def finetuning(batch):
    model = peer_models.timm_classifier(drop_path_rate=0.1)
    from timm.optim import param_groups_layer_decay  # after torchvision, which it imports

    groups = param_groups_layer_decay(model, weight_decay=0.05, layer_decay=0.65)
    for group in groups:  # timm leaves the scale to its scheduler
        group["lr"] = 1e-6 * group.pop("lr_scale")
    batches = tensors(batch, images=(3, 224, 224), labels=(1000,))
    for b in batches:
        b["labels"] /= b["labels"].sum(dim=1, keepdim=True)

    def loss_of(model, b):
        return peer_models.soft_cross_entropy(model(b["images"]), b["labels"])

    return training(model, batches, groups, (0.9, 0.999), loss_of)


def inference(batch):
    model = peer_models.timm_classifier().eval()
    batches = tensors(batch, images=(3, 224, 224))

    @torch.inference_mode()
    def step(i):
        return float(model(batches[i % BATCHES]["images"]).sum())

    return step, None


def build(peer, mode, batch):
    """-> (step, name of the optimizer or None)."""
    if peer == "pytorch":
        return pretraining(peer_models.MaskedAutoencoder(), batch)
    if peer == "transformers":
        return pretraining(peer_models.transformers_autoencoder(), batch)
    return finetuning(batch) if mode == "train" else inference(batch)


def profile(step, steps=2):
    """[[operator, seconds a step, calls a step]], its own time only, longest first."""
    from torch.profiler import ProfilerActivity
    from torch.profiler import profile as torch_profile

    with torch_profile(activities=[ProfilerActivity.CPU]) as profiler:
        for i in range(steps):
            step(i)
    rows = [
        [event.key, event.self_cpu_time_total / 1e6 / steps, event.count / steps]
        for event in profiler.key_averages()
    ]
    return sorted(rows, key=lambda row: -row[1])


def serve(peer, mode, batch, threads):
    """Build the model and step when told to, until the coordinator has gone."""
    torch.set_num_threads(threads)
    turns = Turns(torch=torch.__version__, threads=torch.get_num_threads())
    step, optimizer = build(peer, mode, batch)
    turns.facts.update(optimizer=optimizer, **versions())
    turns.start()
    count = 0
    while True:
        command = turns.wait()
        if command == "step":
            turns.done(loss=step(count))
            count += 1
        elif command == "profile":
            turns.done(profile=profile(step))
        else:
            return


def versions():
    """The versions of the packages that were imported."""
    names = [name for name in ("timm", "transformers", "torchvision") if name in sys.modules]
    return {name: sys.modules[name].__version__ for name in names}


def check(folder):
    """Print the differences of the peers from the golden vectors as JSON.

    Raises:
        AssertionError: a loss, gradient or logit is off by more than float rounding.
    """
    torch.set_num_threads(1)
    golden = np.load(os.path.join(folder, "pretrain_tiny.npz"))
    model = peer_models.MaskedAutoencoder(32, 8, 32, 2, 4, 24, 2, 4)
    model.load_state_dict(part(golden, "state/"))
    images, noise = (torch.from_numpy(golden[name][0]) for name in ("images", "noise"))
    loss = model(images, noise)
    loss.backward()
    loss_error = abs(loss.item() - float(golden["norm_pix/loss"]))
    gradients = {name: p.grad for name, p in model.named_parameters() if p.requires_grad}
    gradient_error = largest_difference(gradients, part(golden, "grad/"))

    golden = np.load(os.path.join(folder, "finetune_tiny.npz"))
    sizes = dict(img_size=32, patch_size=8, embed_dim=32, depth=3, num_heads=4, num_classes=10)
    classifier = peer_models.timm_classifier(**sizes).eval()
    classifier.load_state_dict(part(golden, "global_pool/state/"))
    with torch.no_grad():
        logits = classifier(torch.from_numpy(golden["images"][0]))
    logit_error = largest_difference({"": logits}, part(golden, "global_pool/logits"))
    print(json.dumps(dict(loss=loss_error, gradients=gradient_error, logits=logit_error)))
    assert loss_error < 1e-5, f"the autoencoder's loss is off by {loss_error}"
    assert gradient_error < 1e-5, f"the autoencoder's gradients are off by {gradient_error}"
    assert logit_error < 1e-4, f"the classifier's logits are off by {logit_error}"


def part(golden, prefix):
    """The entries of a golden file below a prefix, without it."""
    found = [name for name in golden.files if name.startswith(prefix)]
    return {name[len(prefix) :]: torch.from_numpy(golden[name]) for name in found}


def largest_difference(found, expected):
    assert set(found) == set(expected), set(found) ^ set(expected)
    return max(float((found[name] - expected[name]).abs().max()) for name in found)


if __name__ == "__main__":
    if sys.argv[1] == "check":
        check(sys.argv[2])
    else:
        end_with_parent()
        serve(sys.argv[1], sys.argv[2], int(sys.argv[3]), int(sys.argv[4]))
