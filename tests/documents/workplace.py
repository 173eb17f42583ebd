"""Runs commands of the documents as they stand, in a folder like the repository, on tiny models."""
import os
import shutil
import subprocess
import sys

from projects.MAE.parallel.layout import batch_of, layout_of
from projects.MAE.settings.load import load_config
from projects.MAE.train_net import parse_arguments
from tests.support.command import ROOT, environment
from tests.documents.pages import configurations, words

TRAIN = ["bash", "tools/train.sh", "projects/MAE/train_net.py"]
# What makes a run tiny, whatever the configuration; added after the command's own settings.
TINY = [
    "train.device=cpu",
    "model.embed_dim=32",
    "model.depth=1",
    "model.num_heads=4",
    "graph.enabled=False",  # nothing to compile
    "train.train_epoch=0",
    "train.train_iter=2",
    "train.warmup_epoch=0",
    "train.log_period=1",
    "train.global_batch_size=4",
    "train.train_micro_batch_size=null",
    "train.num_accumulation_steps=1",
    "train.evaluation.eval_after_n_epoch=null",
    "train.checkpointer.save_model_after_n_epoch=null",
    "dataloader.train.num_workers=0",
    "dataloader.test.0.num_workers=0",
]
TINY_DECODER = ["model.decoder_embed_dim=32", "model.decoder_depth=1", "model.decoder_num_heads=4"]
OF_PHOTOGRAPHS = ["model.img_size=32", "model.patch_size=8"]
# What makes other programs small that would take minutes; added to exactly these commands.
SMALL = {
    ".venv/bin/python tests/soak/fuzz_weights.py": ["--cases", "300"],
    ".venv/bin/python benchmarks/index.py": ["--files", "1000", "--batches", "20"],
}
CLASSES = 3  # that the folder has which stands in for ImageNet
# The weights that the authors give out, made of the tiny runs: name, source, layout.
AUTHORS_WEIGHTS = [
    ("mae_pretrain_vit_base_full.pth", "output/mae_pretraining", "mae"),
    ("mae_pretrain_vit_base.pth", "output/mae_pretraining", "timm"),  # that has no decoder
    ("mae_finetuned_vit_base.pth", "output/mae_finetune", "mae"),
]


class Workplace:
    """A folder in which the documents' commands run as they stand.

    Args:
        folder: an empty folder.
        photographs: a folder of images with train/ and val/, to stand in for ImageNet.
        model: another `Workplace` whose output and weights are copied.
    """

    def __init__(self, folder, photographs=None, model=None):
        self.folder = folder
        for name in ("projects", "tools", "benchmarks"):
            shutil.copytree(ROOT / name, folder / name, ignore=shutil.ignore_patterns(".peer"))
        os.symlink(ROOT / "tests", folder / "tests")  # where fuzz_weights.py has its cases from
        _write_interpreter(folder / ".venv" / "bin")
        if model is None:
            (folder / "data").mkdir()
            for name in ("imagenet", "photographs"):
                os.symlink(photographs, folder / "data" / name)
            return
        os.symlink(model.folder / "data", folder / "data")
        shutil.copytree(model.folder / "output", folder / "output", symlinks=True)
        for path in model.folder.glob("mae_*"):
            shutil.copy(path, folder)

    def run(self, text):
        """Run a command of a document; returns (exit status, its output)."""
        env, parts = words(text)
        if parts[:3] == TRAIN:
            self._make_room(parts)
            return self._start(tiny_run(parts, self.folder), env)
        if parts[:2] == ["bash", "tools/quickstart.sh"]:
            return self._start([*parts, "1", *TINY], env)
        text = " ".join([text.replace("/data/", "data/"), *SMALL.get(text, [])])
        return self._start(["bash", "-c", text], env)

    def write_configurations(self, page):
        """Do what a page asks of its reader; see `configurations`."""
        for name, text in configurations(page).items():
            (self.folder / name).write_text(text)

    def run_python(self, text):
        """Run Python of a document; returns (exit status, its output)."""
        return self._start([sys.executable, "-c", text], {})

    def write_authors_weights(self):
        """Weights with the names of the authors'; the content tells what a file is, not the name."""
        for name, source, layout in AUTHORS_WEIGHTS:
            arguments = [source, "made.safetensors", "--to", layout]
            status, said = self.run(" ".join(["python -m projects.MAE.convert_weights", *arguments]))
            assert status == 0, said
            (self.folder / "made.safetensors").rename(self.folder / name)
            (self.folder / "made.safetensors.json").rename(self.folder / f"{name}.json")

    def _make_room(self, parts):
        """Take away what an earlier example has trained into the same folder."""
        options = {"--resume", "--eval-only", "--knn", "--fast-dev-run"}
        output = load_config(str(self.folder / parts[3]), settings_of(parts)).train.output_dir
        if not options & set(parts):
            shutil.rmtree(self.folder / output, ignore_errors=True)

    def _start(self, command, env):
        paths = dict(PATH=f"{self.folder / '.venv' / 'bin'}:{os.environ['PATH']}", PYTHONPATH="")
        result = subprocess.run(
            command,
            cwd=self.folder,
            env={**environment(), **paths, **env},
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            timeout=600,
        )
        return result.returncode, result.stdout


def settings_of(parts):
    """The key=value words of a training command."""
    return [p for p in parts[4:] if "=" in p and not p.startswith("-")]


def tiny_run(parts, root):
    """A training command on as few ranks as its layout has parts, with a tiny model and images that
    are there.

    Args:
        root: the folder that its configuration's path begins in.
    """
    config, rest = parts[3], parts[4:]
    if rest and rest[0].isdecimal():
        rest = rest[1:]
    rest = [p.replace("=/data/", "=data/") for p in rest]
    cfg = load_config(str(root / config), settings_of(parts))
    added = [*TINY, *(TINY_DECODER if "decoder_depth" in cfg.model else [])]
    if "/mae_" in config:
        added += OF_PHOTOGRAPHS
        added += [f"model.num_classes={CLASSES}"] if "pretraining" not in config else []
    dist = cfg.train.dist
    ranks = dist.tensor_parallel_size * dist.pipeline_parallel_size
    return [*TRAIN, config, str(ranks), *rest, *added]


def check_at_full_size(text, root):
    """Raise a `UserError` unless options, keys, ranks and batch of a training command agree.

    Args:
        root: the folder that its configuration's path begins in.
    """
    env, parts = words(text)
    has_ranks = len(parts) > 4 and parts[4].isdecimal()
    ranks = int(env.get("NODE", 1)) * (int(parts[4]) if has_ranks else 1)
    args = parse_arguments(["--config-file", parts[3], *parts[5 if has_ranks else 4 :]])
    cfg = load_config(str(root / args.config_file), args.opts)
    batch_of(cfg.train, layout_of(cfg, ranks).data)


def _write_interpreter(folder):
    folder.mkdir(parents=True)
    for name in ("python", "python3"):
        # A link would lose the packages of the environment.
        (folder / name).write_text(f'#!/bin/sh\nexec "{sys.executable}" "$@"\n')
        (folder / name).chmod(0o755)
