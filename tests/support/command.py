"""Runs the project's commands as a user does."""
import os
import subprocess
import sys
from pathlib import Path

ROOT = Path(__file__).parents[2]
CONFIGS = "projects/MAE/configs"

# A model and a run that are small enough for a test, for both quickstart configurations.
TINY = [
    "model.embed_dim=32",
    "model.depth=1",
    "model.num_heads=4",
    "train.global_batch_size=8",
    "train.test_micro_batch_size=4",
    "train.train_epoch=0",
    "train.train_iter=4",
    "train.log_period=1",
    "train.evaluation.eval_after_n_epoch=null",
    "train.checkpointer.save_model_after_n_epoch=null",
    # Where a gradient is nothing but rounding, Adam still takes a whole step; with a large eps it
    # does not, and two runs can be compared weight by weight.
    "optim.eps=1e-3",
    "dataloader.train.num_workers=0",
    "dataloader.test.0.num_workers=0",
]
WORKERS = ["dataloader.train.num_workers=1", "dataloader.test.0.num_workers=1"]
TINY_DECODER = ["model.decoder_embed_dim=32", "model.decoder_depth=1", "model.decoder_num_heads=4"]


def environment():
    """The tests' own, with the interpreter that runs them and one thread a rank."""
    threads = dict(OMP_NUM_THREADS="1", MKL_NUM_THREADS="1")
    return dict(os.environ, MAE_PYTHON=sys.executable, **threads)


def train_command(config, *arguments, ranks=1, file="projects/MAE/train_net.py"):
    """`bash tools/train.sh FILE CONFIG RANKS ...` as a list."""
    command = ["bash", ROOT / "tools/train.sh", file, os.path.join(CONFIGS, config), ranks, *arguments]
    return [str(part) for part in command]


def train(config, *arguments, cwd=ROOT, timeout=300, **options):
    """Run `train_command`, output as text."""
    return run_program(train_command(config, *arguments, **options), cwd, timeout)


def run_program(command, cwd=ROOT, timeout=300):
    """Run a command, a list, to its end, both outputs as one text."""
    return subprocess.run(
        command,
        cwd=cwd,
        env=environment(),
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        timeout=timeout,
    )


def must_train(*arguments, **options):
    """`train`, and the test fails with the whole output if the command does."""
    result = train(*arguments, **options)
    assert result.returncode == 0, result.stdout
    return result.stdout


def pretrain(data, output, *arguments, **options):
    """A tiny pretraining run."""
    return must_train(
        "quickstart_pretraining.py",
        *TINY,
        *TINY_DECODER,
        f"dataloader.train.dataset.0.root={data}",
        f"train.output_dir={output}",
        *arguments,
        **options,
    )


def finetune(data, output, *arguments, **options):
    """A tiny finetuning run."""
    return must_train(
        "quickstart_finetune.py",
        *TINY,
        f"dataloader.train.dataset.0.root={data}",
        f"train.output_dir={output}",
        *arguments,
        **options,
    )
