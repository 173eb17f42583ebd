"""A folder in which the commands of --help and of the docs run as they stand."""
import json
import os
import re
import sys

from projects.MAE.digits import write_digits
from tests.support.command import ROOT
from tests.commands.weights import write_weights


def make_workplace(golden, folder):
    """Fill a folder with the names that examples use: tiny weights stand in for large ones."""
    for name in ("projects", "tests", "tools"):
        os.symlink(ROOT / name, folder / name)
    full = dict(decoder_num_heads=4, norm_pix_loss=False)
    runs = {
        "quickstart/pretraining": ("full", full),
        "quickstart/finetune": ("mean", dict(classes=list("0123456789"))),
        "mae_pretraining": ("full", full),
        "mae_finetune": ("mean", {}),
    }
    for run, (kind, card) in runs.items():
        output = folder / "output" / run
        output.mkdir(parents=True)
        write_weights(golden, kind, output / "model_final", **card)
        (output / "last_checkpoint").write_text("model_final")
    # The content tells what a file is, not its name; the card tells the heads of so small a model.
    for name, kind in (("pretrain_vit_base_full", "full"), ("pretrain_vit_base", "encoder")):
        path = folder / f"mae_{name}.pth"
        write_weights(golden, kind, folder / "weights.safetensors").rename(path)
        card = dict(num_heads=4, decoder_num_heads=4) if kind == "full" else dict(num_heads=4)
        (folder / f"mae_{name}.pth.json").write_text(json.dumps(card))
    write_digits(str(folder / "output" / "digits"))
    python = folder / "bin" / "python"
    python.parent.mkdir()
    python.write_text(f'#!/bin/sh\nexec "{sys.executable}" "$@"\n')  # a link would lose its packages
    python.chmod(0o755)
    return folder


def commands_of(text):
    """The commands in --help's examples or in a shell block, comments left out."""
    joined = re.sub(r"\\\n\s*", " ", text)
    lines = [line.strip() for line in joined.splitlines()]
    return [line for line in lines if line and not line.startswith("#") and line != "examples:"]
