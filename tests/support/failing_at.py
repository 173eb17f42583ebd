"""Trains as train_net.py does, and raises an exception on one rank at one stage.

tools/train.sh runs it in place of train_net.py; FAIL_AT="STAGE RANK", "k-NN 1" say, in the
environment says where. Nothing here imports OneFlow before the ranks have met, see `run_rank`.
"""
import importlib
import os
import sys

from projects.MAE.engine.process import run_rank

STAGE, _, RANK = os.environ["FAIL_AT"].rpartition(" ")
LATE = 2  # a step in the middle of the run
PLACES = {
    "with the configuration": ("engine.setup", "configure"),
    "compiling": ("modeling.encoder", "patchify"),
    "evaluation": ("evaluation.evaluate", "gather"),
    "saving": ("checkpoint.checkpointer", "write_part"),
    "k-NN": ("evaluation.knn", "vote"),
}


def fail():
    if os.environ["RANK"] == RANK:
        raise RuntimeError(f"an error on rank {RANK}")


def let_fail(module, name):
    """Let a function of a module of the project fail before it begins."""
    module = importlib.import_module(f"projects.MAE.{module}")
    function = getattr(module, name)

    def first_fails(*args, **kwargs):
        fail()
        return function(*args, **kwargs)

    setattr(module, name, first_fails)


def add_hook():
    """Add a hook that fails between two steps, or when training has ended."""
    from libai.engine.trainer import HookBase

    from projects.MAE.engine import trainer

    class FailingHook(HookBase):
        def before_step(self):
            if STAGE == "between steps" and self.trainer.iter == LATE:
                fail()

        def after_train(self):
            if STAGE == "at the end":
                fail()

    hooks_of = trainer.hooks_of
    trainer.hooks_of = lambda owner: [*hooks_of(owner), FailingHook()]


def main(argv):
    if STAGE == "before the first exchange":
        fail()
    from projects.MAE import train_net

    add_hook()
    if STAGE in PLACES:
        let_fail(*PLACES[STAGE])
    train_net.main(argv)


if __name__ == "__main__":
    run_rank(main, sys.argv[1:])
