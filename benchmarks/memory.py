"""Compare the memory that `projects.MAE.plan` computes with that of CPU ranks in real runs.

    python benchmarks/memory.py [--only NAME ...] [--json FILE]

Runs every case through tools/train.sh on images of noise, prints predicted and measured resident
memory of each rank and their ratio, and adds each case to benchmarks/memory_results.json. Memory
does not depend on the machine's speed or load. The largest case holds 4 GB at once.
"""
import argparse
import json
import os
import subprocess
import sys
import tempfile
from pathlib import Path

import numpy as np
from PIL import Image

ROOT = Path(__file__).resolve().parent.parent
sys.path.insert(0, str(ROOT))

MIB = 2**20
LIMIT = 0.15  # of the measured memory
COMMON = [
    "train.device=cpu",
    "dataloader.train.num_workers=1",
    "dataloader.test.0.num_workers=1",
    "train.evaluation.enabled=False",
    "train.checkpointer.save_model_after_n_epoch=null",
    "train.train_epoch=0",
    "train.train_iter=6",
    "train.log_period=1",
    "train.train_micro_batch_size=null",
    "train.num_accumulation_steps=1",
    "model.patch_size=8",
]
PRETRAIN = ["model.img_size=128", "model.embed_dim=384", "model.depth=6", "model.num_heads=6"]
PRETRAIN += ["model.decoder_embed_dim=256", "model.decoder_depth=4", "model.decoder_num_heads=8"]
PRETRAIN += ["train.global_batch_size=12"]
SMALL = ["model.img_size=96", "model.embed_dim=384", "model.depth=4", "model.num_heads=8"]
SMALL += ["model.decoder_embed_dim=256", "model.decoder_depth=2", "model.decoder_num_heads=8"]
SMALL += ["train.global_batch_size=12"]
WIDE = ["model.img_size=96", "model.embed_dim=512", "model.depth=8", "model.num_heads=8"]
WIDE += ["model.decoder_embed_dim=256", "model.decoder_depth=2", "model.decoder_num_heads=8"]
WIDE += ["train.global_batch_size=8"]
BASE = ["model.img_size=224", "model.patch_size=16", "train.global_batch_size=8"]
FINETUNE = ["finetune.enable=False", "model.img_size=96", "model.embed_dim=384", "model.depth=6"]
FINETUNE += ["model.num_heads=6", "model.num_classes=2", "train.global_batch_size=8"]
TENSOR, PIPELINE = "train.dist.tensor_parallel_size", "train.dist.pipeline_parallel_size"
CHECKPOINTING = "train.activation_checkpoint.enabled=True"

# name: (recipe, ranks, overrides)
CASES = {
    "pretrain 1x1x1": ("pretraining", 1, PRETRAIN),
    "pretrain 1x1x1, batch 24": ("pretraining", 1, PRETRAIN + ["train.global_batch_size=24"]),
    "pretrain 1x1x1, checkpointing": ("pretraining", 1, PRETRAIN + [CHECKPOINTING]),
    "pretrain 1x1x1, 3 accumulation steps": (
        "pretraining",
        1,
        PRETRAIN + ["train.num_accumulation_steps=3"],
    ),
    "pretrain 1x1x1, wide": ("pretraining", 1, WIDE),
    "pretrain 1x1x1, ViT-Base": ("pretraining", 1, BASE),
    "pretrain 2x1x1": ("pretraining", 2, PRETRAIN),
    "pretrain 2x1x1, wide": ("pretraining", 2, WIDE),
    "pretrain 1x2x1": ("pretraining", 2, PRETRAIN + [f"{TENSOR}=2"]),
    "pretrain 1x2x1, checkpointing": ("pretraining", 2, SMALL + [f"{TENSOR}=2", CHECKPOINTING]),
    "pretrain 1x1x2": ("pretraining", 2, PRETRAIN + [f"{PIPELINE}=2"]),
    "pretrain 1x1x2, checkpointing": (
        "pretraining",
        2,
        PRETRAIN + [f"{PIPELINE}=2", CHECKPOINTING],
    ),
    "pretrain 2x2x1": ("pretraining", 4, SMALL + [f"{TENSOR}=2"]),
    "pretrain 2x1x2": ("pretraining", 4, SMALL + [f"{PIPELINE}=2"]),
    "pretrain 1x2x2": ("pretraining", 4, SMALL + [f"{TENSOR}=2", f"{PIPELINE}=2"]),
    "pretrain 4x1x1": ("pretraining", 4, SMALL),
    "pretrain 1x4x1": ("pretraining", 4, SMALL + [f"{TENSOR}=4"]),
    "finetune 1x1x1": ("finetune", 1, FINETUNE),
    "finetune 1x1x1, checkpointing": ("finetune", 1, FINETUNE + [CHECKPOINTING]),
    "finetune 2x1x1": ("finetune", 2, FINETUNE),
    "finetune 1x2x1": ("finetune", 2, FINETUNE + [f"{TENSOR}=2"]),
    "finetune 1x1x2": ("finetune", 2, FINETUNE + [f"{PIPELINE}=2"]),
}


def make_images(root, count=32, side=128):
    """A data set of two classes of noise."""
    rng = np.random.default_rng(0)
    for split in ("train", "val"):
        for label in ("a", "b"):
            folder = Path(root) / split / label
            folder.mkdir(parents=True)
            for i in range(count):
                pixels = rng.integers(0, 256, (side, side, 3), dtype=np.uint8)
                Image.fromarray(pixels).save(folder / f"{i}.png")


def predict(config, ranks, overrides):
    """Bytes and numbers of parameters of each rank, by the plan of the same command line."""
    from projects.MAE.parallel.layout import batch_of, layout_of
    from projects.MAE.parallel.memory import rank_memory
    from projects.MAE.plan import load, parse_arguments

    cfg = load(parse_arguments([config, str(ranks), *overrides]))
    layout = layout_of(cfg, ranks)
    batch = batch_of(cfg.train, layout.data)
    stages = [rank // (ranks // layout.pipeline) for rank in range(ranks)]
    found = [rank_memory(cfg, layout, stage, batch.micro, batch.steps) for stage in stages]
    return [(memory["total"], memory["parameters"] // 4) for memory in found]


def measure(config, ranks, overrides, output):
    """Resident bytes of each rank in the steps of a run, and numbers of its parameters."""
    environment = dict(
        os.environ,
        MAE_PYTHON=sys.executable,
        OMP_NUM_THREADS="1",
        MKL_NUM_THREADS="1",
    )
    command = ["bash", "tools/train.sh", "benchmarks/memory_rank.py", config, str(ranks)]
    result = subprocess.run(
        [*command, *overrides, f"train.output_dir={output}"],
        cwd=ROOT,
        env=environment,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
    )
    if result.returncode:
        sys.exit(result.stdout[-3000:])
    files = [Path(output) / f"memory_{rank}.json" for rank in range(ranks)]
    found = [json.loads(file.read_text()) for file in files]
    return [(rank["steps"], rank["parameters"]) for rank in found]


def run_case(name, folder):
    """A case's result as a dict, printed."""
    recipe, ranks, overrides = CASES[name]
    config = f"projects/MAE/configs/mae_{recipe}.py"
    overrides = [*COMMON, *overrides, f"dataloader.train.dataset.0.root={folder}/images"]
    predicted = predict(str(ROOT / config), ranks, overrides)
    with tempfile.TemporaryDirectory(dir=folder) as output:
        measured = measure(config, ranks, overrides, output)
    for (_, planned), (_, held) in zip(predicted, measured):
        assert planned == held, f"{name}: {planned} parameters planned, {held} held"
    predicted, measured = [p for p, _ in predicted], [m for m, _ in measured]
    ratios = [p / m for p, m in zip(predicted, measured)]
    for rank, (p, m, ratio) in enumerate(zip(predicted, measured, ratios)):
        print(f"{name:40} {rank:4} {p / MIB:10.0f} {m / MIB:9.0f} {ratio:6.3f}", flush=True)
    return dict(
        name=name,
        predicted=[round(x) for x in predicted],
        measured=measured,
        ratios=[round(x, 3) for x in ratios],
    )


def main():
    parser = argparse.ArgumentParser(description=__doc__.split("\n\n")[0])
    parser.add_argument("--only", nargs="*", choices=list(CASES), default=list(CASES))
    default = ROOT / "benchmarks/memory_results.json"
    parser.add_argument("--json", default=default, help="where the results go")
    args = parser.parse_args()
    print(f"{'layout: data x tensor x pipeline':40} rank  predicted  measured  ratio   (MiB)")
    with tempfile.TemporaryDirectory() as folder:
        make_images(Path(folder) / "images")
        for name in args.only:
            worst = save(run_case(name, folder), args.json)
    print(f"largest difference of all cases {worst:.1%}")
    return int(worst > LIMIT)


def save(case, path):
    """Put a case's result into a file of results; returns the largest difference of them all."""
    found = json.loads(Path(path).read_text())["cases"] if os.path.exists(path) else []
    found = {**{c["name"]: c for c in found}, case["name"]: case}
    cases = [found[name] for name in CASES if name in found]
    worst = max(abs(ratio - 1) for c in cases for ratio in c["ratios"])
    text = json.dumps(dict(largest_difference=round(worst, 3), cases=cases), indent=1)
    Path(path).write_text(text + "\n")
    return worst


if __name__ == "__main__":
    sys.exit(main())
