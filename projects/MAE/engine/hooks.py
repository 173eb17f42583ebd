"""Hooks of the trainer: what is logged, evaluated and saved, and when."""
import logging
import os

from libai.engine.trainer import HookBase
from libai.utils import distributed as dist

from projects.MAE.checkpoint.names import NUMBERED
from projects.MAE.checkpoint.reader import read_card
from projects.MAE.checkpoint.run_folder import delete, link_final
from projects.MAE.report.save import report_of_run
from projects.MAE.runtime.ranks import any_rank, only_on_rank_0
from projects.MAE.utils.disk import refusals, write_text

logger = logging.getLogger("libai." + __name__)


def due(iterations, epochs, samples_per_epoch, global_batch_size):
    """When something periodic happens, as a function of the number of iterations done.

    Args:
        iterations: every so many iterations, 0 or None for never.
        epochs: every so many epochs; wins over `iterations` where it is set. An epoch ends with
            the iteration that takes its last sample.
    """
    if epochs:
        span = epochs * samples_per_epoch

        def periods(done):
            return int(done * global_batch_size / span + 1e-9)

        return lambda done: periods(done) > periods(done - 1)
    return lambda done: bool(iterations) and done % iterations == 0


class Metrics(HookBase):
    """Give the writers figures: of every `period` iterations, the first and last, each evaluation.

    The iteration is 1 after the first. Loss and rate are those of the iteration, not smoothed;
    samples_per_second is of the latest iterations, see `StepClock`.

    Args:
        clock: the `StepClock` among the hooks.
        writers: see `monitor/writers.py`; closed at the end.
    """

    def __init__(self, clock, period, global_batch_size, writers):
        self.clock, self.period, self.global_batch_size = clock, period, global_batch_size
        self.writers, self.evaluated = writers, None

    def after_step(self):
        done = self.trainer.iter + 1
        ends = (self.trainer.start_iter + 1, self.trainer.max_iter)
        if done % self.period == 0 or done in ends:
            latest, rate = self.trainer.storage.latest(), self.clock.rate(self.global_batch_size)
            values = {name: latest[name][0] for name in ("total_loss", "lr")}
            self._write("train", dict(values, samples_per_second=rate))
        results = self.trainer.last_evaluation
        if results is not None and results is not self.evaluated:
            self.evaluated = results
            self._write("evaluation", results)

    def after_train(self):
        for writer in self.writers:
            writer.close()

    def _write(self, group, values):
        for writer in self.writers:
            writer.scalars(group, self.trainer.iter + 1, values)


class CheckpointHook(HookBase):
    """Save when `due` and at the end; keep the newest `max_to_keep`.

    `last_checkpoint` names a checkpoint when it is whole and on the disk; older ones are deleted
    after that. `model_final` is a link to the last checkpoint.
    """

    def __init__(self, checkpointer, due, max_to_keep=None):
        self.checkpointer, self.due, self.max_to_keep = checkpointer, due, max_to_keep
        self.kept = []

    def before_train(self):
        if self.trainer.start_iter:
            names = os.listdir(self.checkpointer.save_dir)
            self.kept = sorted(name for name in names if NUMBERED.fullmatch(name))
        if self.trainer.start_iter < self.trainer.max_iter:
            self.checkpointer.check_room()

    def after_step(self):
        done = self.trainer.iter + 1
        final = done == self.trainer.max_iter
        if final or self.due(done):
            self.save(done, final)

    def save(self, done, final=False):
        """Save now, `done` iterations after the start; every rank calls this."""
        name = f"model_{done - 1:07d}"
        self.checkpointer.save(name, iteration=done)
        only_on_rank_0(lambda: self._tag(name, final))

    def _tag(self, name, final):
        folder = self.checkpointer.save_dir
        with refusals(folder):
            self.checkpointer.tag_last_checkpoint(name)
            self.kept = [n for n in self.kept if n != name] + [name]
            while self.max_to_keep and len(self.kept) > self.max_to_keep:
                delete(folder, self.kept.pop(0))
            if final:
                link_final(folder, name)


class EvaluationHook(HookBase):
    """Evaluate when `due` and at the end; save the best as `model_best`.

    A run that is asked to stop does not begin an evaluation, and breaks off the one it is in; a
    file in the output folder lets the resumed run begin with it (`postponed`).

    Args:
        evaluate: gives {metric: value}, or None where it was broken off.
        metric: which one decides, larger is better if mode is "max".
        stops: whether the run is to stop after this step, as a function.
    """

    def __init__(self, due, evaluate, checkpointer, metric, mode, stops):
        self.due, self.evaluate, self.stops = due, evaluate, stops
        self.checkpointer, self.metric, self.mode = checkpointer, metric, mode
        self.best, self.postponed = None, False
        self.note = os.path.join(checkpointer.save_dir, "evaluation_postponed")

    def before_train(self):
        if self.trainer.start_iter:
            # A network disk may show another rank an older folder: where ranks differ in what is
            # best, only some of them would save.
            self.best = only_on_rank_0(self._best_so_far)
        (owed,) = any_rank(dist.is_main_process() and self._owed())
        if owed:
            self._evaluate(self.trainer.start_iter)

    def after_step(self):
        done = self.trainer.iter + 1
        if done == self.trainer.max_iter or self.due(done):
            self._evaluate(done)

    def _best_so_far(self):
        best = os.path.join(self.checkpointer.save_dir, "model_best")
        return read_card(best).get(self.metric) if os.path.isdir(best) else None

    def _owed(self):
        """Whether the run that this one resumes has left its evaluation to it."""
        if not os.path.isfile(self.note):
            return False
        with open(self.note) as file:
            return file.read() == str(self.trainer.start_iter)

    def _note(self, done):
        """Leave the evaluation to the resumed run, or forget that one was."""
        with refusals(os.path.dirname(self.note)):
            if self.postponed:
                write_text(self.note, str(done))
            elif os.path.exists(self.note):
                os.remove(self.note)

    def _evaluate(self, done):
        results = None if self.stops() else self.evaluate()
        self.postponed = results is None
        only_on_rank_0(lambda: self._note(done))
        if self.postponed:
            return
        value = results[self.metric]
        better = self.best is None or (value > self.best if self.mode == "max" else value < self.best)
        if better:
            self.best = value
            self.checkpointer.save("model_best", iteration=done, **results)


class SkippedImagesReport(HookBase):
    """Report which images were skipped (data.on_error=skip): at the end, and new ones when `due`.

    Args:
        skipped: the train loader's `SkippedImages`.
    """

    def __init__(self, skipped, due):
        self.skipped, self.due, self.reported = skipped, due, 0

    def after_step(self):
        done = self.trainer.iter + 1
        # Not in `after_train`, which also follows an error that one rank alone may have met.
        final = done == self.trainer.max_iter
        if final or self.due(done):
            known = 0 if final else self.reported
            self.reported = self.skipped.report("others took their place", known)


class Report(HookBase):
    """Write report.html when training has ended; after the other hooks, as it shows what they left."""

    def __init__(self, output_dir):
        self.output_dir = output_dir

    def after_train(self):
        if self.trainer.iter >= self.trainer.max_iter:  # else it broke off
            report_of_run(self.output_dir)
