"""What saving a checkpoint costs a run: seconds of training time and memory of each rank.

tools/train.sh runs it in place of train_net.py, for a model of any size and on any layout:

    bash tools/train.sh benchmarks/save.py projects/MAE/configs/mae_pretraining.py 1 train.device=cpu \
        train.global_batch_size=2 train.train_micro_batch_size=null train.num_accumulation_steps=1 \
        dataloader.train.dataset.0.root=IMAGES train.output_dir=FOLDER

It takes a training step, saves five times, and prints a line. "One copy" is what the checkpoint
holds: the weights and the optimizer's state. Memory is resident memory; pages that the system keeps
of the written files are not the process's.
"""
import os
import shutil
import sys
import time

from libai.engine.trainer import HookBase
from libai.utils import distributed as dist

from projects.MAE.command_line import end_now
from projects.MAE.engine.process import end_with_parent
from projects.MAE.engine.setup import prepare, training_of
from projects.MAE.train_net import parse_arguments

SAVES = 5


def resident(kind):
    """This process's resident memory in bytes: VmRSS is what it has, VmHWM the most it had."""
    with open("/proc/self/status") as file:
        lines = dict(line.split(":", 1) for line in file)
    return int(lines[kind].split()[0]) * 1024


class SaveTimes(HookBase):
    """Saves after the first step, which makes the optimizer's state."""

    def after_step(self):
        if self.trainer.iter:
            return
        seconds, grown = [], []
        for _ in range(SAVES):
            dist.synchronize()
            with open("/proc/self/clear_refs", "w") as file:
                file.write("5")  # sets the peak back to what is resident now
            before, start = resident("VmRSS"), time.perf_counter()
            self.trainer.checkpointer.save("model_0000000", iteration=1)
            seconds.append(time.perf_counter() - start)
            grown.append(resident("VmHWM") - before)
        folder = os.path.join(self.trainer.checkpointer.save_dir, "model_0000000")
        copy = sum(os.path.getsize(os.path.join(r, f)) for r, _, fs in os.walk(folder) for f in fs)
        times = " ".join(f"{s:.1f}" for s in sorted(seconds))
        print(
            f"rank {dist.get_rank()}: one copy {copy / 1e6:.0f} MB; seconds of {SAVES} saves: {times}; "
            f"memory grew by {max(grown) / 1e6:.0f} MB at most",
            flush=True,
        )
        if dist.is_main_process():
            shutil.rmtree(folder)
        dist.synchronize()
        time.sleep(1)
        end_now(0)


if __name__ == "__main__":
    end_with_parent()
    trainer = training_of(prepare(parse_arguments(sys.argv[1:])))
    trainer.register_hooks([SaveTimes()])
    trainer._hooks.insert(0, trainer._hooks.pop())  # before the hook that may save
    trainer.train()
