"""What a run says of the images that it skipped (data.on_error=skip)."""
import logging

from libai.utils import distributed as dist

from projects.MAE.data.datasets import may_skip
from projects.MAE.runtime.ranks import union

NAMED = 5  # files; more of them would bury the rest of the log

logger = logging.getLogger("libai." + __name__)


class SkippedImages:
    """The unreadable images that a loader has met.

    A rank names the first that it meets itself in its own log, with the reason; `report` counts those
    of all ranks.
    """

    def __init__(self, dataset):
        self.dataset, self.possible = dataset, may_skip(dataset)
        self.indices = set()  # places in the data set, on this rank

    def add(self, skipped):
        """Take down what one batch has skipped, a list of (index, why it can't be read)."""
        for index, reason in skipped:
            if index in self.indices:
                continue
            self.indices.add(index)
            if len(self.indices) <= NAMED:
                logger.warning(f"Skipped {self.dataset.path(index)}: {reason}")
            elif len(self.indices) == NAMED + 1:
                logger.warning("Skipped another image; from here on they are only counted")

    def report(self, what_followed, known=0):
        """Log how many images all ranks have skipped, if it is more than `known`, and name the first.

        All ranks call this together, and get the number.
        """
        if not self.possible:
            return 0
        skipped = union(self.indices)
        if len(skipped) > known and dist.is_main_process():
            paths = ", ".join(self.dataset.path(index) for index in skipped[:NAMED])
            logger.warning(
                f"data.on_error=skip: {len(skipped):,} of {len(self.dataset):,} images can't be read, "
                f"{what_followed}: {paths}{', ...' if len(skipped) > NAMED else ''}"
            )
        return len(skipped)
