"""Trains as train_net.py does, and raises an exception on one rank at one stage.

tools/train.sh runs it in place of train_net.py; FAIL_AT="STAGE RANK", "in a step 1" say, in the environment says where.
"""
import os
import sys

import oneflow as flow
from libai.engine.trainer import HookBase

from projects.MAE import train_net
from projects.MAE.checkpoint import checkpointer
from projects.MAE.engine import setup, trainer
from projects.MAE.engine.process import run_rank
from projects.MAE.evaluation import evaluate, knn
from projects.MAE.modeling import encoder

STAGE, _, RANK = os.environ["FAIL_AT"].rpartition(" ")
LATE = 2  # a step in the middle of the run


def fail():
    if flow.env.get_rank() == int(RANK):
        raise RuntimeError(f"an error on rank {RANK}")


def failing(module, name):
    """Let a function of a module fail before it begins."""
    function = getattr(module, name)

    def first_fails(*args, **kwargs):
        fail()
        return function(*args, **kwargs)

    setattr(module, name, first_fails)


class FailingHook(HookBase):
    """Fails between two steps, or when training has ended."""

    def before_step(self):
        if STAGE == "between steps" and self.trainer.iter == LATE:
            fail()

    def after_train(self):
        if STAGE == "at the end":
            fail()


def main(argv):
    if STAGE == "before the first exchange":
        fail()
    train_net.main(argv)


if __name__ == "__main__":
    places = {
        "with the configuration": (setup, "configure"),
        "compiling": (encoder, "patchify"),
        "in a step": (trainer, "to_global"),
        "evaluation": (evaluate, "gather"),
        "saving": (checkpointer, "write_part"),
        "k-NN": (knn, "vote"),
    }
    if STAGE in places:
        failing(*places[STAGE])
    hooks_of = trainer.hooks_of
    trainer.hooks_of = lambda t: [*hooks_of(t), FailingHook()]
    run_rank(main, sys.argv[1:])
