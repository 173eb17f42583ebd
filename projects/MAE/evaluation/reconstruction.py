"""What a masked autoencoder makes of images, as pictures."""
import collections
import math

import numpy as np
import oneflow as flow
from libai.utils import distributed as dist

from projects.MAE.data.build import data_parallel_rank
from projects.MAE.evaluation.image_grid import draw_grid
from projects.MAE.modeling.global_tensors import as_input
from projects.MAE.runtime.ranks import gather

ROWS = 16  # images a rank holds at once

Reconstruction = collections.namedtuple(
    "Reconstruction", "original masked reconstruction pasted losses"
)
Reconstruction.__doc__ = """Images before and after, float32 [N, C, H, W], normalised as the input is.

original: the input.
masked: what the encoder sees; 0, the mean colour, elsewhere.
reconstruction: what the decoder predicts, visible patches too.
pasted: the prediction with the visible patches of the original in their places.
losses: float32 [N], the loss on the masked patches of each image, of the kind the model trains on.
"""


def reconstruct(model, images, noise):
    """Mask images and make a `Reconstruction`. Every rank has to call it, and gets everything.

    What a model with `norm_pix_loss` predicts is un-normalised with the mean and the variance of
    each patch of the original.

    Args:
        model: a `MaskedAutoencoderViT`; it is left in the mode it is in.
        images: float32 array [N, C, H, W], normalised, the same on every rank.
        noise: float32 array [N, L] in [0, 1), which decides the mask.
    """
    pred, mask, losses = _evaluate(model, images, noise)
    patches = to_patches(images, model.patch_size)
    if model.norm_pix_loss:
        pred = unnormalise(pred, patches)
    hidden = mask[:, :, None].astype(bool)
    pictures = (patches, np.where(hidden, 0, patches), pred, np.where(hidden, pred, patches))
    return Reconstruction(*(to_images(p, images.shape) for p in pictures), losses)


def unnormalise(pred, patches):
    """The inverse of the normalisation of targets, for what is predicted of patches [N, L, P]."""
    variance = patches.var(axis=-1, ddof=1, keepdims=True)
    return pred * np.sqrt(variance + 1e-6) + patches.mean(axis=-1, keepdims=True)


def to_patches(images, patch_size):
    """[N, C, H, W] -> [N, L, patch_size**2 * C], as the model's `patchify`."""
    n, c, h, w = images.shape
    p = patch_size
    x = images.reshape(n, c, h // p, p, w // p, p).transpose(0, 2, 4, 3, 5, 1)
    return x.reshape(n, -1, p * p * c)


def to_images(patches, shape):
    """[N, L, patch_size**2 * C] -> [N, C, H, W] of the given shape, as the model's `unpatchify`."""
    n, c, h, w = shape
    p = math.isqrt(patches.shape[-1] // c)
    x = patches.reshape(n, h // p, w // p, p, p, c).transpose(0, 5, 1, 3, 2, 4)
    return x.reshape(shape)


def reconstruction_grid(model, found, labels, to_pixels, title, seed, known_from):
    """Draw original, masked, reconstructed and pasted images of a `Reconstruction`: a `PIL.Image`.

    Args:
        model, found: the `MaskedAutoencoderViT` and the `Reconstruction` that it made.
        labels: a text for each image.
        to_pixels: float32 [N, 3, H, W] -> uint8 [N, H, W, 3], `ToArray.to_pixels`.
        title: the first line of the caption.
        seed: of the masking noise.
        known_from: what says whether the targets of training were normalised.
    """
    rows = {
        "original": to_pixels(found.original),
        "masked": to_pixels(found.masked),
        "reconstruction": to_pixels(found.reconstruction),
        "with visible patches": to_pixels(found.pasted),
    }
    hidden, total = model.num_patches - model.keep, model.num_patches
    told = f"(norm_pix_loss={model.norm_pix_loss}, known from {known_from})"
    if model.norm_pix_loss:
        targets = (
            f"Trained on normalised patches {told}: un-normalised here with the mean and variance of "
            "each original patch."
        )
    else:
        targets = f"Trained on pixels {told}: nothing to un-normalise."
    caption = [
        title,
        f"{hidden} of {total} patches masked ({hidden / total:.0%}), seed {seed}. Loss on them: "
        f"{found.losses.mean():.4f}.",
        targets,
    ]
    return draw_grid(rows, labels, caption)


def _evaluate(model, images, noise):
    """What the model predicts, its mask and the loss of each image, as arrays."""
    was_training, parts = model.training, []
    model.eval()
    step = ROWS * dist.get_data_parallel_size()
    with flow.no_grad():
        for start in range(0, len(images), step):
            some = slice(start, start + step)
            outputs = model(images=_share_out(images[some]), noise=_share_out(noise[some]))
            names = ("pred", "mask", "sample_losses")
            parts.append([gather(outputs[name])[: len(images[some])] for name in names])
    model.train(was_training)
    return [np.concatenate(arrays) for arrays in zip(*parts)]


def _share_out(array):
    """[N, ...] -> a global tensor for the first stage; copies of the last row make the shares even."""
    ranks = dist.get_data_parallel_size()
    rows = -(-len(array) // ranks)
    wanted = np.arange(rows) + data_parallel_rank() * rows
    return as_input(array[np.minimum(wanted, len(array) - 1)])
