"""A rank of this project: steps of its own trainer when told to. Started by train_step.py as

    bash tools/train.sh benchmarks/oneflow_step.py CONFIG [N] [key=value ...]

with BENCHMARK_MODE=train or inference in the environment. Everything is as in train_net.py, from
the configuration to the hooks, but the batches: they are random and prepared in advance.
"""
import dataclasses
import os
import sys
import traceback

import numpy as np
import oneflow as flow
from libai.data.structures import DistTensorData, Instance
from libai.engine.hooks import HookBase

from benchmarks.kernel_times import KernelTimes
from benchmarks.turns import Turns
from projects.MAE.command_line import end_now
from projects.MAE.data.build import data_parallel_rank, to_global
from projects.MAE.data.skipped import SkippedImages
from projects.MAE.engine.process import end_with_parent
from projects.MAE.engine.setup import prepare
from projects.MAE.engine.trainer import MAETrainer, build_model
from projects.MAE.errors import UserError
from projects.MAE.modeling.graph import evaluator_of
from projects.MAE.runtime import native
from projects.MAE.runtime.rendezvous import meet
from projects.MAE.settings.run import schedule_of
from projects.MAE.train_net import parse_arguments

BATCHES = 2  # prepared in advance and used in turn
SAMPLES = 1_281_167  # as if it were ImageNet, for the schedule


def random_batch(cfg, rows, seed):
    """What the model takes: {name: float32 array [rows, ...], uniform in [0, 1)}."""
    model, draw = cfg.model, np.random.default_rng(seed)
    shapes = {"images": (3, model.img_size, model.img_size)}
    if "mask_ratio" in model:
        shapes["noise"] = ((model.img_size // model.patch_size) ** 2,)
    else:
        shapes["labels"] = (model.num_classes,)
        shapes["drop_path_noise"] = (2 * model.depth,)
    batch = {n: draw.random((rows, *shape), dtype=np.float32) for n, shape in shapes.items()}
    if "labels" in batch:
        batch["labels"] /= batch["labels"].sum(axis=1, keepdims=True)
    return batch


def to_instance(batch):
    """A batch as the project's loaders yield it: labels belong to the last pipeline stage."""
    instance = Instance()
    for name, array in batch.items():
        stage = -1 if name == "labels" else 0
        instance.set(name, DistTensorData(flow.from_numpy(array), placement_idx=stage))
    return instance


class PreparedImages:
    """What the trainer asks of a data set."""

    def __init__(self, num_classes):
        self.classes, self.num_classes = range(num_classes), num_classes
        self.on_error = "raise"

    def __len__(self):
        return SAMPLES


class PreparedLoader:
    """Batches in memory, for ever."""

    def __init__(self, run, dataset):
        ranks = run.layout.data
        rows = run.batch.total // ranks
        self.dataset = dataset
        self.skipped = SkippedImages(dataset)
        self.batches = [
            random_batch(run.cfg, rows, seed=i * ranks + data_parallel_rank())
            for i in range(BATCHES)
        ]

    def __iter__(self):
        # The tensors are made anew, as each batch of a loader is.
        while True:
            yield from map(to_instance, self.batches)


class TurnHook(HookBase):
    """Waits before a step until it is this side's turn, and reports it done after."""

    def __init__(self, turns):
        self.turns = turns

    def before_train(self):
        self.turns.start()

    def before_step(self):
        self.kernels = begin(self.turns)

    def after_step(self):
        finish(self.trainer.model)
        end(self.turns, self.kernels)


def begin(turns):
    """Wait for this side's turn; the running `KernelTimes` if the step is to be profiled."""
    command = turns.wait()
    if command is None:
        end_now(0)
    if command != "profile":
        return None
    kernels = KernelTimes()
    kernels.start()
    return kernels


def end(turns, kernels):
    """Report that the step is done."""
    if kernels is None:
        turns.done()
    else:
        turns.done(profile=kernels.report())


def finish(model):
    """Return when the graph has updated the parameters; the loss is there earlier."""
    model.cls_token.to_local().numpy()


class TurnTrainer(MAETrainer):
    """The project's trainer on prepared batches, a step a turn."""

    def __init__(self, run, dataset, turns):
        self.turns = turns
        super().__init__(run, dataset)

    def build_hooks(self):
        return super().build_hooks() + [TurnHook(self.turns)]

    def build_train_loader(self, cfg, tokenizer=None):
        return PreparedLoader(self.run, self.dataset), None, None


def serve_inference(run, dataset, turns):
    """The forward pass of the classifier, as --eval-only runs it, a batch a turn."""
    model = build_model(run.cfg).eval()
    graph = evaluator_of(model, run.cfg.graph.enabled)
    batches = iter(PreparedLoader(run, dataset))
    turns.start()
    while True:
        kernels = begin(turns)
        with flow.no_grad():
            images = to_global(next(batches))["images"]
            scores = graph(images=images)["prediction_scores"]
            scores.to_local().numpy()
        end(turns, kernels)


def main(argv):
    turns = Turns(
        oneflow=flow.__version__,
        rank=int(os.environ["RANK"]),
        threads=os.environ.get("OMP_NUM_THREADS"),
    )
    run = prepare(parse_arguments(argv))
    run = dataclasses.replace(run, schedule=schedule_of(run.cfg, run.batch, SAMPLES))
    dataset = PreparedImages(run.cfg.model.get("num_classes", 0))
    turns.facts["blas"] = native.matrix_products()
    if os.environ["BENCHMARK_MODE"] == "inference":
        serve_inference(run, dataset, turns)
    else:
        TurnTrainer(run, dataset, turns).train()


if __name__ == "__main__":
    end_with_parent()
    meet()
    status = 1
    try:
        main(sys.argv[1:])
        status = 0
    except UserError as error:
        print(f"error: {error}", file=sys.stderr)
    except Exception:
        traceback.print_exc()
    end_now(status)
