"""Trains as train_net.py does and writes how much memory this rank holds while it steps.

tools/train.sh runs it in place of train_net.py. Into train.output_dir goes, from each rank K,
`memory_K.json`: the most resident bytes there were in the steps after the first three, and how many
numbers its parameters have.
"""
import json
import os
import sys

import numpy as np
from libai.engine.trainer import HookBase
from libai.utils import distributed as dist

from projects.MAE.command_line import end_now
from projects.MAE.engine.process import end_with_parent
from projects.MAE.engine.setup import prepare, training_of
from projects.MAE.train_net import parse_arguments

WARMUP = 3  # OneFlow writes to all of a graph's memory in the first steps


def peak_resident():
    """The peak of this process's resident memory in bytes."""
    with open("/proc/self/status") as file:
        lines = dict(line.split(":", 1) for line in file)
    return int(lines["VmHWM"].split()[0]) * 1024


class PeakMemory(HookBase):
    """The peak of resident memory in the steps after WARMUP, without that of building the model."""

    peak = None

    def after_step(self):
        done = self.trainer.iter + 1
        if done == WARMUP:
            with open("/proc/self/clear_refs", "w") as file:
                file.write("5")  # sets the peak back to what is resident now
        elif done > WARMUP:
            self.peak = peak_resident()


def held(model):
    """Numbers of all parameters that this rank holds."""
    mine = [p for p in model.parameters() if dist.get_rank() in np.ravel(p.placement.ranks)]
    return sum(p.to_local().numel() for p in mine)


if __name__ == "__main__":
    end_with_parent()
    trainer = training_of(prepare(parse_arguments(sys.argv[1:])))
    memory = PeakMemory()
    memory.trainer = trainer
    trainer._hooks.insert(0, memory)  # before the hook that writes the last checkpoint
    trainer.train()
    with open(os.path.join(trainer.run.cfg.train.output_dir, f"memory_{dist.get_rank()}.json"), "w") as file:
        json.dump(dict(steps=memory.peak, parameters=held(trainer.model)), file)
    dist.synchronize()
    end_now(0)
