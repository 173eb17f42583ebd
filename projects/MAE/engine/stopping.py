"""Whether a run goes on after a step: what the ranks agree on, bad losses, and stops.

A signal reaches the ranks at different moments and the loss is known to rank 0 alone, yet all of
them have to stop, save or skip an update in the same step.
"""
import logging
import os

import oneflow as flow
from libai.engine.hooks import LRScheduler
from libai.engine.trainer import HookBase
from libai.utils import distributed as dist

from projects.MAE.checkpoint.names import find_checkpoint, has_checkpoint
from projects.MAE.modeling.initialization import named_tensors
from projects.MAE.runtime.compat import log_loss
from projects.MAE.runtime.ranks import any_rank
from projects.MAE.utils.signals import Listener, seconds_since_start

logger = logging.getLogger("libai." + __name__)


def resume_command():
    """The command that goes on with this run, as far as the launcher has told this one."""
    command = os.environ.get("MAE_COMMAND") or "the same command with"
    return command if "--resume" in command.split() else f"{command} --resume"


class Stopped(BaseException):
    """The run was asked to stop and has saved; all ranks raise it after the same step.

    Like KeyboardInterrupt it is no Exception, which LiBai's training loop would log as an error.
    """


class StepWatch(HookBase):
    """What the ranks agree on in each step; before all hooks but the clock.

    Args:
        max_seconds: after which the run stops, from the start of the process; None for never.
        max_bad_batches: how many updates may be skipped because their loss was not finite.

    Attributes:
        stop, save: whether the run is to stop, or to save, after this step.
        skipped: whether this step's update did not happen.
    """

    def __init__(self, max_seconds, max_bad_batches, output_dir):
        self.max_seconds, self.max_bad_batches = max_seconds, max_bad_batches
        self.output_dir = output_dir
        self.listener, self.listening = Listener(), False
        self.stop = self.save = self.skipped = False
        self.bad_batches = 0

    def after_loss(self, write_metrics):
        """Agree on what follows from this step; returns whether its update may happen.

        Every rank calls this once a step. `write_metrics` calls LiBai's, with the loss.

        Raises:
            FloatingPointError: on all ranks, after more than max_bad_batches losses not finite.
        """
        bad = not log_loss(write_metrics, self.trainer.storage)
        saves = self.listener.save
        self.stop, self.save, self.skipped = any_rank(self._stop_wanted(), saves, bad)
        if saves:
            self.listener.save = False
        if self.skipped:
            self._count_bad_batch()
        return not self.skipped

    def check_stop(self):
        """Agree on whether to stop, where no step is under way; every rank calls this."""
        (self.stop,) = any_rank(self._stop_wanted())
        return self.stop

    @property
    def reason(self):
        """Why this rank wants to stop, for the log."""
        if self.listener.stop:
            return self.listener.stop
        return f"train.max_seconds={self.max_seconds}" if self._time_is_up() else "another rank's signal"

    def after_step(self):
        if not self.listening:
            self.listener.start()
            self.listening = True

    def _stop_wanted(self):
        return bool(self.listener.stop) or self._time_is_up()

    def _time_is_up(self):
        return self.max_seconds is not None and seconds_since_start() > self.max_seconds

    def _count_bad_batch(self):
        self.bad_batches += 1
        iteration = self.trainer.iter + 1
        if self.bad_batches > self.max_bad_batches:
            message = divergence("Loss", iteration, self.output_dir, self.bad_batches)
            raise FloatingPointError(message)
        if dist.is_main_process():
            self.trainer.storage.put_scalar("total_loss", float("nan"))
            logger.warning(
                f"Loss became infinite or NaN at iteration {iteration}: this update is left out "
                f"({self.bad_batches} of at most train.max_bad_batches={self.max_bad_batches})"
            )


class FiniteWeights(HookBase):
    """Refuse to go on, before anything is saved, with weights that are not finite.

    A loss can be finite and its gradient not: the next loss would tell, after the checkpoint.

    Args:
        due: whether a checkpoint or an evaluation follows, as a function of the iterations done.
    """

    def __init__(self, due, output_dir):
        self.due, self.output_dir = due, output_dir

    def after_step(self):
        done = self.trainer.iter + 1
        if done != self.trainer.max_iter and not self.due(done):
            return
        (bad,) = any_rank(not weights_are_finite(self.trainer.model))
        if bad:
            raise FloatingPointError(divergence("Weights", done, self.output_dir))


class CountUpdates(LRScheduler):
    """LiBai's hook of the schedule, which counts updates: a graph does not count the updates that it leaves out."""

    def __init__(self, watch):
        super().__init__()
        self.watch = watch

    def after_step(self):
        if not self.watch.skipped:
            super().after_step()


class StopHook(HookBase):
    """End the run where the ranks have agreed to stop; the last of the hooks.

    Args:
        watch: the `StepWatch`.
        postponed: whether an evaluation was left out for it, as a function.
    """

    def __init__(self, watch, postponed, output_dir):
        self.watch, self.postponed, self.output_dir = watch, postponed, output_dir

    def after_step(self):
        done, last = self.trainer.iter + 1, self.trainer.max_iter
        if not self.watch.stop or (done == last and not self.postponed()):
            return
        if dist.is_main_process():  # the others may be here before rank 0 has named the checkpoint
            checkpoint = find_checkpoint(self.output_dir)
            logger.info(
                f"Stopped after iteration {done} of {last} ({self.watch.reason}), saved in "
                f"{checkpoint}; to go on: {resume_command()}"
            )
        raise Stopped


def weights_are_finite(model):
    """Whether the part of each weight and running statistic that this rank holds is finite."""
    total = 0.0
    with flow.no_grad():
        for tensor in named_tensors(model).values():
            local = tensor.to_local()
            if local.numel():
                total = total + (local * 0).sum()  # NaN of infinity, too
    return float(total) == 0.0


def divergence(what, iteration, folder, count=1):
    """The message for a loss, or weights, that are not finite."""
    if count > 1:
        what = f"{count} losses were not finite, train.max_bad_batches={count - 1}: {what}"
    if has_checkpoint(folder):
        good = find_checkpoint(folder)
        kept = f"the last good checkpoint is {good}: go on from it with --resume, or lower the rate"
    else:
        kept = "there is no checkpoint yet: lower the rate"
    return f"{what} became infinite or NaN at iteration {iteration}; {kept} (optim.lr, train.base_lr)"
