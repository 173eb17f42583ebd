"""The trainer's pictures: the same few images, reconstructed every few epochs."""
import logging
import os

import numpy as np
from libai.engine.trainer import HookBase
from libai.utils import distributed as dist

from projects.MAE.data.build import check_sample
from projects.MAE.data.datasets import PretrainingDataset, files_of
from projects.MAE.data.fixed_samples import fixed_samples
from projects.MAE.data.transforms import ToArray
from projects.MAE.errors import UserError
from projects.MAE.evaluation.image_grid import save_png
from projects.MAE.evaluation.reconstruction import reconstruct, reconstruction_grid
from projects.MAE.runtime.lazy_call import call, target_of
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
        self.to_pixels = pixels_of(dataset, self.samples.images)
        self.seed = getattr(dataset, "seed", "unknown")  # of one of the user's own
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
    kind = target_of("dataloader.test.0.dataset", node)
    if not (isinstance(kind, type) and issubclass(kind, PretrainingDataset)):
        dataset = call(node)
        check_sample(dataset, cfg.model, has_labels=False, trains=False)
        return dataset
    root = os.path.expanduser(str(node.root))
    return call(node, train=not os.path.isdir(os.path.join(root, "val")))


def pixels_of(dataset, images):
    """What makes pixels, uint8 [N, H, W, 3], of a data set's images, float32 [N, C, H, W].

    That is its own `to_pixels`, or that of the `ToArray` that its transform ends with; without one,
    of a data set of the user's own, the first bands from the smallest to the largest value in `images`.
    """
    if hasattr(dataset, "to_pixels"):
        return dataset.to_pixels
    transform = getattr(dataset, "transform", None)
    last = getattr(transform, "transforms", [transform])[-1]
    if isinstance(last, ToArray):
        return last.to_pixels
    if files_of(dataset):
        raise UserError(
            "train.visualize: dataloader.test.0.dataset.transform does not end with ToArray, so how "
            "its result becomes pixels again is not known: end it so, or draw no pictures with "
            "train.visualize.period=0 train.visualize.after_n_epoch=null"
        )
    bands = [0, 1, 2] if images.shape[1] >= 3 else [0, 0, 0]
    logger.info(
        f"Pictures of {type(dataset).__name__}, which has no to_pixels: bands {bands} as red, green "
        "and blue, each from its smallest to its largest value"
    )
    low = images.min(axis=(0, 2, 3))[bands]
    span = np.maximum(images.max(axis=(0, 2, 3))[bands] - low, 1e-12)

    def to_pixels(arrays):
        shown = (np.moveaxis(arrays[:, bands], 1, -1) - low) / span
        return np.round(255 * np.clip(shown, 0, 1)).astype(np.uint8)

    return to_pixels
