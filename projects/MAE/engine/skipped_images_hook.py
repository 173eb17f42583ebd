"""A hook that reports the images which training has skipped (data.on_error=skip)."""
from libai.engine.trainer import HookBase


class SkippedImagesReport(HookBase):
    """Report what training has skipped, when `due` if there is more than the last time, and at the end.

    Args:
        skipped: the train loader's `SkippedImages`.
        due: a function of the iterations done -> bool.
    """

    def __init__(self, skipped, due):
        self.skipped, self.due = skipped, due
        self.reported = 0

    def after_step(self):
        done = self.trainer.iter + 1
        # Not in `after_train`, which also follows an error that one rank alone may have met.
        final = done == self.trainer.max_iter
        if final or self.due(done):
            known = 0 if final else self.reported
            self.reported = self.skipped.report("others took their place", known)
