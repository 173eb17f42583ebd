"""Writes the torch files beside this one: python tests/golden/weights/write_files.py

Those that PyTorch 1.13 wrote are committed, so that the tests of the reader need no PyTorch.
"""
import argparse
import collections
import os
from pathlib import Path

import torch

HERE = Path(__file__).parent
WIDTH, TOKENS, PATCH = 8, 5, 4  # an image of 8 pixels
torch.manual_seed(0)


def block(name, width):
    shapes = {
        "norm1": (width,),
        "attn.qkv": (3 * width, width),
        "attn.proj": (width, width),
        "norm2": (width,),
        "mlp.fc1": (4 * width, width),
        "mlp.fc2": (width, 4 * width),
    }
    state = {}
    for part, shape in shapes.items():
        state[f"{name}.{part}.weight"] = torch.randn(shape)
        state[f"{name}.{part}.bias"] = torch.randn(shape[0])
    return state


def encoder():
    return {
        "cls_token": torch.randn(1, 1, WIDTH),
        "pos_embed": torch.randn(1, TOKENS, WIDTH),
        "patch_embed.proj.weight": torch.randn(WIDTH, 3, PATCH, PATCH),
        "patch_embed.proj.bias": torch.randn(WIDTH),
        **block("blocks.0", WIDTH),
        "norm.weight": torch.randn(WIDTH),
        "norm.bias": torch.randn(WIDTH),
    }


def decoder():
    return {
        "mask_token": torch.randn(1, 1, 4),
        "decoder_pos_embed": torch.randn(1, TOKENS, 4),
        "decoder_embed.weight": torch.randn(4, WIDTH),
        "decoder_embed.bias": torch.randn(4),
        **block("decoder_blocks.0", 4),
        "decoder_norm.weight": torch.randn(4),
        "decoder_norm.bias": torch.randn(4),
        "decoder_pred.weight": torch.randn(PATCH**2 * 3, 4),
        "decoder_pred.bias": torch.randn(PATCH**2 * 3),
    }


class Malicious:
    """Creates a file in the current folder when a careless reader opens it."""

    def __reduce__(self):
        return os.system, ("touch MALICIOUS_CODE_RAN",)


def write():
    weight = torch.nn.Parameter(torch.randn(3, 2))
    optimizer = torch.optim.AdamW([weight], lr=0.1, betas=(0.9, 0.95))
    weight.grad = torch.ones(3, 2)
    optimizer.step()
    model = collections.OrderedDict({**encoder(), **decoder()})
    model._metadata = {"": {"version": 1}}  # as a module's state_dict() has it
    training = {
        "model": model,
        "optimizer": optimizer.state_dict(),
        "epoch": 799,
        "scaler": {"scale": 65536.0, "growth_factor": 2.0, "_growth_tracker": 0},
        "args": argparse.Namespace(norm_pix_loss=True, mask_ratio=0.75, data_path="/data", lr=None),
    }
    torch.save(training, HERE / "training_full.pth")
    half = {name: tensor.half() for name, tensor in encoder().items()}
    torch.save(half, HERE / "encoder_float16.pth")

    counting = torch.arange(24, dtype=torch.float32)
    numbers = ("float64", "float32", "float16", "bfloat16", "int64", "int32", "int16", "int8")
    kinds = {name: torch.arange(4).to(getattr(torch, name)) for name in (*numbers, "uint8", "bool")}
    kinds["transposed"] = counting.reshape(4, 6).t()
    kinds["part"] = counting.reshape(4, 6)[1:3, 2:5]
    kinds["scalar"] = torch.tensor(1.5)
    kinds["empty"] = torch.zeros(0, 3)
    kinds["parameter"] = torch.nn.Parameter(torch.ones(2))
    kinds["others"] = [torch.float32, torch.Size([1, 2]), torch.device("cpu"), ("text", None, 7)]
    torch.save(kinds, HERE / "kinds.pth")

    small = {"weight": torch.ones(2)}
    torch.save(small, HERE / "legacy.pth", _use_new_zipfile_serialization=False)
    torch.save({"model": small, "args": Malicious()}, HERE / "malicious.pth")
    torch.save({"model": torch.nn.Linear(2, 2)}, HERE / "whole_module.pth")


def write_wrapped():
    """What the authors' linear probing, timm, DINO and MoCo v3 leave: heads, nesting, prefixes."""
    torch.manual_seed(1)
    probe = {
        **encoder(),
        "head.0.running_mean": torch.randn(WIDTH),
        "head.0.running_var": torch.rand(WIDTH),
        "head.0.num_batches_tracked": torch.tensor(7),
        "head.1.weight": torch.randn(3, WIDTH),
        "head.1.bias": torch.randn(3),
    }
    torch.save({"model": probe, "epoch": 89, "args": argparse.Namespace()}, HERE / "linprobe.pth")
    raw, averaged = encoder(), encoder()
    ema = {"epoch": 3, "state_dict": raw, "state_dict_ema": averaged}
    torch.save(ema, HERE / "ema.pth")
    dino = {
        "student": {f"module.backbone.{name}": tensor for name, tensor in raw.items()},
        "teacher": {f"backbone.{name}": tensor for name, tensor in averaged.items()},
    }
    dino["teacher"]["head.mlp.0.weight"] = torch.randn(2, WIDTH)
    torch.save(dino, HERE / "dino.pth")
    moco = {f"module.base_encoder.{name}": tensor for name, tensor in raw.items()}
    moco.update({f"module.momentum_encoder.{name}": tensor for name, tensor in averaged.items()})
    for side in ("base_encoder", "momentum_encoder"):
        moco[f"module.{side}.head.0.weight"] = torch.randn(2, WIDTH)
    moco["module.predictor.0.weight"] = torch.randn(2, 2)
    torch.save({"arch": "vit_tiny", "epoch": 5, "state_dict": moco}, HERE / "moco.pth")


if __name__ == "__main__":
    write()
    write_wrapped()
