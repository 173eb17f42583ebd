"""What a person sees of a run while it goes on: a live bar on a terminal, else plain lines."""
import logging
import re
import time
from collections import deque

import oneflow as flow
from libai.engine.trainer import HookBase

from projects.MAE.monitor.bar import SignsOfLife, duration, live_bar
from projects.MAE.monitor.log import SHOWN_BY_BAR, has_terminal

logger = logging.getLogger("libai." + __name__)


class StepClock(HookBase):
    """Measures the latest `window` training steps. First among the hooks, so that what the others do
    between steps, as evaluating and saving, does not count.
    """

    def __init__(self, window):
        self.seconds, self.steps = deque(maxlen=window), 0

    def before_step(self):
        self.started = time.perf_counter()

    def after_step(self):
        if self.steps == 1:
            self.seconds.clear()  # the first step compiled the graph
        self.seconds.append(time.perf_counter() - self.started)
        self.steps += 1

    def rate(self, images_per_step):
        """Images a second of the latest steps, without the first as soon as there is another."""
        return images_per_step * len(self.seconds) / sum(self.seconds)


class Progress(HookBase):
    """Show iteration, loss, rate, images a second, time left and memory.

    On a terminal they stand on a live bar. Without one, and in log.txt in any case, a line says the
    same every `period` iterations. The loss is the mean of the latest `period` iterations.

    Args:
        clock: the `StepClock` among the hooks.
        samples_per_epoch, global_batch_size: how far an iteration goes.
        compiles: whether the first step compiles a graph, which takes seconds to minutes.
    """

    def __init__(self, clock, period, global_batch_size, samples_per_epoch, compiles):
        self.clock, self.period, self.compiles = clock, period, compiles
        self.global_batch_size, self.samples_per_epoch = global_batch_size, samples_per_epoch
        self.bar, self.waiting = None, None

    def before_train(self):
        if has_terminal():
            self.bar = live_bar(self.trainer.max_iter, self.trainer.start_iter)
        self.began = time.perf_counter()
        if self.trainer.start_iter == self.trainer.max_iter:
            return  # a run that was over is resumed
        what = "Compiling the training graph" if self.compiles else "Running the first step"
        self.waiting = SignsOfLife(what, self.bar)

    def after_step(self):
        done = self.trainer.iter + 1
        if self.clock.steps == 1:
            self.waiting.stop()
            self.second_began = time.perf_counter()
            logger.info(f"First step done after {self.second_began - self.began:.1f} s")
        loss = self.trainer.storage.history("total_loss").avg(self.period)
        rate = self.trainer.storage.latest()["lr"][0]
        speed = f"{whole_or_short(self.clock.rate(self.global_batch_size))} images/s"
        left = f"{self._time_left(done)} left"
        if self.bar is not None:
            said = f"loss {loss:.4f}, rate {rate:.1e}, {speed}, {left}, {memory_text()}"
            self.bar.set_description_str(said, refresh=False)
            self.bar.update(1)
        last, epochs = self.trainer.max_iter, self.global_batch_size / self.samples_per_epoch
        if done % self.period == 0 or done == last:
            place = f"iteration {done}/{last}  epoch {done * epochs:.1f}/{last * epochs:.1f}"
            said = f"loss {loss:.4f}  rate {rate:.3e}  {speed}  {left}  memory {memory_text()}"
            logger.info(f"{place}  {said}", extra=SHOWN_BY_BAR)

    def after_train(self):
        if self.waiting is not None:
            self.waiting.stop()
        if self.bar is not None:
            self.bar.refresh()
            self.bar.close()
        if self.trainer.iter >= self.trainer.max_iter:  # not so when it broke off
            taken = duration(time.perf_counter() - self.began)
            logger.info(
                f"Trained {self.clock.steps} iterations in {taken}, evaluation and saving included; "
                f"memory {memory_text()}"
            )

    def _time_left(self, done):
        """At the speed since the first step, with what happened between steps."""
        if self.clock.steps == 1:
            return "?"
        passed = time.perf_counter() - self.second_began
        return duration(passed / (self.clock.steps - 1) * (self.trainer.max_iter - done))


def whole_or_short(number):
    """1234.5 as 1,234, and 0.12345 as 0.12."""
    return f"{number:,.0f}" if number >= 10 else f"{number:.2g}"


def memory_text():
    """Memory of this rank in GB: in use on its GPU, else the most that was resident so far."""
    if flow.cuda.is_available():
        return f"{flow._oneflow_internal.GetCUDAMemoryUsed() / 1024:.2f} GB"
    with open("/proc/self/status") as file:
        kilobytes = int(re.search(r"VmHWM:\s+(\d+) kB", file.read()).group(1))
    return f"{kilobytes / 1e6:.2f} GB"
