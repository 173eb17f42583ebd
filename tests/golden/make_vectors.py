"""Makes the golden vectors beside this file anew with the authors' code, and compares them.

    git clone https://github.com/facebookresearch/mae /tmp/mae  # efb2a80
    python3.10 -m venv /tmp/golden
    /tmp/golden/bin/pip install torch==1.13.1 torchvision==0.14.1 timm==0.3.2 "numpy<1.24"
    /tmp/golden/bin/python tests/golden/make_vectors.py /tmp/mae [--out FOLDER]

Prints the largest difference of each key, relative to its largest magnitude, and ends with status
1 if one is more than rounding. With --out it writes the files there, and compares nothing.

What was drawn at random is not drawn again, but read from the files here: initial weights, images,
noise, soft targets (INPUTS); so are the settings of the runs in lr_schedules.json. Everything else
is computed anew by the authors' code.
"""
import argparse
import collections.abc
import json
import re
import sys
from functools import partial
from pathlib import Path
from types import SimpleNamespace
from unittest import mock

import numpy as np
import torch
import torch._six

HERE = Path(__file__).parent
INPUTS = re.compile(r"(\w+/)?state/.*|images|noise|soft_targets|drop_path_noise|src_4x4")
ROUNDING = 1e-5  # 1 to 4 threads differ by 3e-7
NORM = partial(torch.nn.LayerNorm, eps=1e-6)
SIZES = dict(img_size=32, patch_size=8, embed_dim=32, num_heads=4, mlp_ratio=4, norm_layer=NORM)
MASK_RATIO, STEPS, STEPS_PER_EPOCH = 0.75, 8, 2
PRETRAINING = SimpleNamespace(lr=1.5e-3, min_lr=0.0, warmup_epochs=1, epochs=4)
FINETUNING = SimpleNamespace(lr=2e-3, min_lr=1e-6, warmup_epochs=1, epochs=4)


def recorded(*draws):
    """A patch of torch.rand that hands out recorded noise, a draw a call.

    The authors' model draws its masking noise with it, timm's DropPath a number for each sample.
    """
    draws = iter(draws)
    return mock.patch.object(torch, "rand", lambda *shape, **_: next(draws).reshape(*shape))


def inputs_of(name):
    with np.load(HERE / f"{name}.npz") as file:
        return {key: torch.tensor(file[key]) for key in file if INPUTS.fullmatch(key)}


def load(model, inputs, prefix="state/"):
    state = {k[len(prefix) :]: tensor for k, tensor in inputs.items() if k.startswith(prefix)}
    model.load_state_dict(state)
    return model


def gradients(loss, model):
    loss.backward()
    return {f"grad/{n}": p.grad.clone() for n, p in model.named_parameters() if p.requires_grad}


def train(model, groups, betas, schedule, loss_of_step):
    """The authors' loop without its reduced precision: rate, forward, backward, update."""
    from util.lr_sched import adjust_learning_rate

    optimizer = torch.optim.AdamW(groups, lr=schedule.lr, betas=betas)
    made = {"train/losses": [], "train/lrs": []}
    for step in range(STEPS):
        rate = adjust_learning_rate(optimizer, step / STEPS_PER_EPOCH, schedule)
        loss = loss_of_step(step)
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        made["train/losses"].append(loss.item())
        made["train/lrs"].append(rate)
    return {**made, **{f"train/final_state/{n}": p for n, p in model.state_dict().items()}}


def make_pretraining():
    from models_mae import MaskedAutoencoderViT
    from timm.optim.optim_factory import add_weight_decay

    inputs = inputs_of("pretrain_tiny")
    images, noise = inputs["images"], inputs["noise"]
    decoder = dict(decoder_embed_dim=24, decoder_depth=2, decoder_num_heads=4)
    model = load(MaskedAutoencoderViT(**SIZES, **decoder, depth=2), inputs)

    def forward(step):
        with recorded(noise[step]):
            return model(images[step], MASK_RATIO)

    made = {"raw_pix/loss": forward(0)[0]}
    model.norm_pix_loss = True
    made["norm_pix/loss"], made["pred"], made["mask"] = forward(0)
    with recorded(noise[0]):
        made["latent"], _, made["ids_restore"] = model.forward_encoder(images[0], MASK_RATIO)
    made.update(gradients(made["norm_pix/loss"], model))
    groups = add_weight_decay(model, 0.05)
    steps = train(model, groups, (0.9, 0.95), PRETRAINING, lambda step: forward(step)[0])
    return {**inputs, **made, **steps}


def classifier(**options):
    from models_vit import VisionTransformer

    return VisionTransformer(**{**SIZES, **options}, depth=3, num_classes=10, qkv_bias=True)


def layer_decay_groups(model):
    from util.lr_decay import param_groups_lrd

    return param_groups_lrd(model, 0.05, model.no_weight_decay(), layer_decay=0.65)


def finetune(model, logits_of_step, targets):
    """The loss of the first step, its gradients, and eight steps."""
    from timm.loss import SoftTargetCrossEntropy

    def loss(step):
        return SoftTargetCrossEntropy()(logits_of_step(step), targets[step])

    made = {"loss": loss(0)}
    made.update(gradients(made["loss"], model))
    groups = layer_decay_groups(model)
    return made, train(model, groups, (0.9, 0.999), FINETUNING, loss)


def make_finetuning():
    inputs = inputs_of("finetune_tiny")
    images = inputs["images"]
    token = load(classifier(global_pool=False), inputs, "cls_token/state/")
    mean = load(classifier(global_pool=True), inputs, "global_pool/state/")
    made = {"cls_token/logits": token(images[0]), "global_pool/logits": mean(images[0])}
    _, steps = finetune(mean, lambda step: mean(images[step]), inputs["soft_targets"])
    return {**inputs, **made, **steps}


def make_drop_path():
    inputs = inputs_of("finetune_drop_path")
    model = load(classifier(drop_path_rate=0.3, global_pool=True), inputs)

    def logits(step):  # noise is [sample, 2 * block + branch]; the first block draws nothing
        with recorded(*inputs["drop_path_noise"][step].T[2:]):
            return model(inputs["images"][step])

    made = {"train_logits": logits(0)}
    first, steps = finetune(model, logits, inputs["soft_targets"])
    return {**inputs, **made, **first, **steps}


def make_param_groups():
    model = classifier(global_pool=True)
    groups = {p: group for group in layer_decay_groups(model) for p in group["params"]}
    return {
        name: {key: groups[p][key] for key in ("lr_scale", "weight_decay")}
        for name, p in sorted(model.named_parameters())
    }


def make_schedules():
    from util.lr_sched import adjust_learning_rate

    runs = json.loads((HERE / "lr_schedules.json").read_text())
    for run in runs.values():
        schedule, optimizer = SimpleNamespace(**run), SimpleNamespace(param_groups=[])
        epochs = (step / run["steps_per_epoch"] for step in range(len(run["lr_per_step"])))
        run["lr_per_step"] = [adjust_learning_rate(optimizer, e, schedule) for e in epochs]
    return runs


def make_pos_embed():
    from util.pos_embed import get_2d_sincos_pos_embed

    embed = partial(get_2d_sincos_pos_embed, cls_token=True)
    base, decoder, huge = embed(768, 14), embed(512, 14), embed(1280, 16)
    rows = {"base14": base[:40], "dec14": decoder[177:], "huge16": huge[100:120]}
    return {key: array.astype(np.float32) for key, array in rows.items()}


def make_interpolation():
    from util.pos_embed import interpolate_pos_embed

    inputs = inputs_of("pos_embed_interpolation")
    state = {"pos_embed": inputs["src_4x4"]}
    interpolate_pos_embed(classifier(img_size=48), state)
    return {**inputs, "dst_6x6": state["pos_embed"]}


FILES = {
    "pretrain_tiny.npz": make_pretraining,
    "finetune_tiny.npz": make_finetuning,
    "finetune_drop_path.npz": make_drop_path,
    "finetune_tiny_param_groups.json": make_param_groups,
    "lr_schedules.json": make_schedules,
    "pos_embed.npz": make_pos_embed,
    "pos_embed_interpolation.npz": make_interpolation,
}


def write(path, made):
    if path.suffix == ".json":
        path.write_text(json.dumps(made, indent=1 if "groups" in path.name else None))
    else:
        np.savez_compressed(path, **flat(made))


def flat(tree, prefix=""):
    """{key: array}, keys of nested dictionaries joined by slashes."""
    if not isinstance(tree, dict):
        array = tree.detach().numpy() if isinstance(tree, torch.Tensor) else np.asarray(tree)
        return {prefix[:-1]: array}
    return {k: v for name, part in tree.items() for k, v in flat(part, f"{prefix}{name}/").items()}


def difference(key, made, kept):
    if (made.shape, made.dtype) != (kept.shape, kept.dtype):
        return np.inf
    if re.fullmatch("train/final_state/.*attn.qkv.bias", key):
        # The key's part has no influence on a softmax, so its gradient is rounding alone, and
        # Adam makes a step of any size of it.
        made, kept = (array.reshape(3, -1)[[0, 2]] for array in (made, kept))
    made, kept = made.astype(np.float64), kept.astype(np.float64)
    return np.abs(made - kept).max() / (np.abs(kept).max() or 1.0)


def compare(name, made):
    """Print how far each computed key is from the file here; returns the largest."""
    path = HERE / name
    kept = flat(json.loads(path.read_text()) if path.suffix == ".json" else dict(np.load(path)))
    found = {k: difference(k, made[k], kept[k]) for k in made.keys() & kept.keys()}
    found.update({key: np.inf for key in made.keys() ^ kept.keys()})
    for key in sorted(found):
        if not INPUTS.fullmatch(key):
            print(f"{name} {key}: {found[key]:.1e}")
    return np.max([*found.values()])


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("checkout", type=Path, help="a folder with facebookresearch/mae")
    parser.add_argument("--out", type=Path, help="write the files there")
    options = parser.parse_args()
    sys.path.insert(0, str(options.checkout))
    torch._six.container_abcs = collections.abc  # timm 0.3.2 takes it from there
    made = {name: make() for name, make in FILES.items()}
    if options.out:
        options.out.mkdir(parents=True, exist_ok=True)
        for name, content in made.items():
            write(options.out / name, content)
        return
    worst = {name: compare(name, flat(content)) for name, content in made.items()}
    print(*(f"{name}: at most {found:.1e}" for name, found in worst.items()), sep="\n")
    sys.exit(0 if np.max([*worst.values()]) <= ROUNDING else 1)  # NaN fails too


if __name__ == "__main__":
    main()
