"""Output folders with made-up figures, for reports."""
import json

import numpy as np
from PIL import Image

CONFIG = """\
dataloader:
  train: {dataset: [{root: images}]}
model: {_target_: projects.MAE.modeling.mae.MaskedAutoencoderViT, img_size: 24, patch_size: 4}
optim: {lr: %s}
train: {global_batch_size: 10, train_iter: 20, output_dir: out, evaluation: {size: '${model.img_size}'}}
"""


def lines(first, last, step=1, loss=3.0):
    """Lines of metrics.json, with an evaluation every fifth iteration."""
    for i in range(first, last + 1, step):
        yield dict(iteration=i, total_loss=loss / i, lr=1e-3 * i, samples_per_second=100.0 + i)
        if i % 5 == 0:
            yield {"iteration": i, "reconstruction_loss": loss / i + 0.1}


def make_run(folder, found=None, lr="0.001", arguments=(), pictures=1):
    """An output folder as a run leaves it, without weights."""
    folder.mkdir(parents=True)
    text = [json.dumps(line) if isinstance(line, dict) else line for line in found or lines(1, 20)]
    (folder / "metrics.json").write_text("\n".join(text) + "\n")
    (folder / "config.yaml").write_text(CONFIG % lr)
    environment = dict(
        started="2026-11-25 12:00:00",
        arguments=list(arguments),
        ranks=1,
        device="cpu",
        training_images=50,
        versions={"python": "3.10.13", "oneflow": "0.9.0"},
    )
    (folder / "environment.json").write_text(json.dumps(environment))
    for i in range(pictures):
        (folder / "reconstructions").mkdir(exist_ok=True)
        pixels = np.full((12, 40, 3), 40 * i, np.uint8)
        Image.fromarray(pixels).save(folder / "reconstructions" / f"iteration_{i * 5:07d}.png")
    return folder


def make_checkpoint(folder, name, **card):
    """A checkpoint as far as a report looks at it: a card and some bytes."""
    (folder / name / "model").mkdir(parents=True)
    (folder / name / "model" / "model_card.json").write_text(json.dumps(card))
    (folder / name / "model" / "weights").write_bytes(b"x" * 2_000_000)


def make_evaluation(folder, name="evaluation.json", **content):
    """What --eval-only or --knn writes into a folder, which may be there already."""
    folder.mkdir(parents=True, exist_ok=True)
    (folder / name).write_text(json.dumps(content))
    return folder
