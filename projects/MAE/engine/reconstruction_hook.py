"""The trainer's pictures: the same few images, reconstructed every few epochs."""
import logging
import os

import numpy as np
from libai.engine.trainer import HookBase
from libai.utils import distributed as dist

from projects.MAE.data.fixed_samples import fixed_samples
from projects.MAE.data.transforms import ToArray
from projects.MAE.errors import UserError
from projects.MAE.evaluation.image_grid import save_png
from projects.MAE.evaluation.reconstruction import reconstruct, reconstruction_grid
from projects.MAE.runtime.lazy_call import call
from projects.MAE.utils.disk import reason

FOLDER = "reconstructions"

logger = logging.getLogger("libai." + __name__)


class ReconstructionHook(HookBase):
    """Draw a grid of reconstructions when `due` and at the end.

    It goes to `OUTPUT/reconstructions/iteration_NNNNNNN.png`, where NNNNNNN iterations are done, and
    to the trainer's `writers`. All ranks reconstruct, in eager mode; rank 0 draws. No random
    generator is asked, so training goes on as without it.

    Args:
        due: of the number of iterations done, whether to draw.
        dataset: see `picture_dataset`.
        count: images to draw.
    """

    def __init__(self, due, dataset, count, output_dir):
        # Now rather than after hours: an image may be unreadable.
        self.samples = fixed_samples(dataset, count)
        self.to_pixels, self.seed = pixels_of(dataset.transform), dataset.seed
        self.due, self.output_dir = due, output_dir

    def after_step(self):
        done = self.trainer.iter + 1
        if done != self.trainer.max_iter and not self.due(done):
            return
        model = self.trainer.model
        found = reconstruct(model, self.samples.images, self.samples.noise)
        if not dist.is_main_process():
            return
        title, known_from = f"{self.output_dir}, iteration {done}", "the configuration"
        labels = self.samples.labels
        grid = reconstruction_grid(
            model, found, labels, self.to_pixels, title, self.seed, known_from
        )
        folder = os.path.join(self.output_dir, FOLDER)
        path = os.path.join(folder, f"iteration_{done:07d}.png")
        try:
            os.makedirs(folder, exist_ok=True)
            save_png(grid, path)
        except OSError as error:  # a picture less; the run is worth more
            logger.warning(f"No reconstructions: {path}: {reason(error, self.output_dir)}")
        else:
            logger.info(f"Reconstructions: {path}")
        for writer in self.trainer.writers:
            writer.image("reconstructions", np.asarray(grid), done)


def picture_dataset(cfg):
    """The first data set of `dataloader.test`; without val/, the training images in its transform."""
    node = cfg.dataloader.test[0].dataset
    root = os.path.expanduser(str(node.root))
    return call(node, train=not os.path.isdir(os.path.join(root, "val")))


def pixels_of(transform):
    """What makes pixels of a transform's result: `to_pixels` of the `ToArray` that it ends with."""
    last = getattr(transform, "transforms", [transform])[-1]
    if not isinstance(last, ToArray):
        raise UserError(
            "train.visualize: dataloader.test.0.dataset.transform does not end with ToArray, so how "
            "its result becomes pixels again is not known: end it so, or draw no pictures with "
            "train.visualize.period=0 train.visualize.after_n_epoch=null"
        )
    return last.to_pixels
