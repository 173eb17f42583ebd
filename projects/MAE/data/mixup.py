"""Mixup and CutMix: a batch's images and targets blended in pairs."""
import math

import numpy as np

from projects.MAE.errors import UserError


def smooth_one_hot(labels, num_classes, smoothing):
    """One-hot targets with label smoothing (Szegedy et al., arXiv 1512.00567, section 7).

    int [N], K and s -> float32 [N, K]: s / K everywhere and 1 - s + s / K at the label.
    """
    off = smoothing / num_classes
    targets = np.full((len(labels), num_classes), off, np.float32)
    targets[np.arange(len(labels)), labels] = 1.0 - smoothing + off
    return targets


class Mixup:
    """Blend each image with its neighbour, by mixup or by CutMix.

    mixup: Zhang et al. (arXiv 1710.09412); CutMix: Yun et al. (arXiv 1905.04899). Rows 2k and
    2k + 1 are each other's partners and share a kind, a lambda and a box: batches are shuffled, so
    this is as random as any other pairing, and a pair stays together in every layout. The authors'
    code draws once for each GPU's batch, which depends on the layout; the distribution of each
    image is the same.

    Args:
        mixup_alpha, cutmix_alpha: lambda ~ Beta(alpha, alpha); 0 switches that kind off.
        prob: of blending a pair at all.
        switch_prob: of CutMix rather than mixup, where both are on.
        label_smoothing: s of `smooth_one_hot`.
        num_classes: K.
        cutmix_minmax: [smallest, largest] side of CutMix's box over the image's, in the place of a
            drawn lambda; it makes cutmix_alpha 1, as in timm, which the authors use.
    """

    def __init__(
        self,
        mixup_alpha=0.8,
        cutmix_alpha=1.0,
        prob=1.0,
        switch_prob=0.5,
        label_smoothing=0.1,
        num_classes=1000,
        cutmix_minmax=None,
    ):
        self.mixup_alpha = mixup_alpha
        self.cutmix_alpha = cutmix_alpha if cutmix_minmax is None else 1.0
        self.prob = prob
        self.switch_prob = switch_prob
        self.label_smoothing = label_smoothing
        self.num_classes = num_classes
        self.cutmix_minmax = None if cutmix_minmax is None else tuple(cutmix_minmax)

    def __call__(self, images, labels, rngs):
        """Blend a batch in place.

        Args:
            images: float32 [N, C, H, W], N even, else a UserError.
            labels: int [N].
            rngs: N / 2 generators, one a pair.

        Returns:
            (images, targets float32 [N, K]).
        """
        if len(images) % 2:
            raise UserError(
                f"train.train_micro_batch_size: mixup pairs images and needs an even number of "
                f"them on each rank, not {len(images)}: set an even train.train_micro_batch_size "
                "(or dataloader.train.mixup=null to train without mixup)"
            )
        targets = smooth_one_hot(labels, self.num_classes, self.label_smoothing)
        for first, rng in zip(range(0, len(images), 2), rngs):
            pair = slice(first, first + 2)
            _blend(targets[pair], self._blend_images(images[pair], rng))
        return images, targets

    def _blend_images(self, pair, rng):
        """Blend [2, C, H, W] in place; returns the weight of each image's own label."""
        cutmix, lam = self._draw(rng)
        if not cutmix:
            _blend(pair, lam)
            return lam
        height, width = pair.shape[2:]
        if self.cutmix_minmax is None:
            top, bottom, left, right = self._draw_box((height, width), lam, rng)
        else:
            top, bottom, left, right = self._draw_box_of_range((height, width), rng)
        box = pair[:, :, top:bottom, left:right]
        box[...] = box[::-1].copy()
        # The box is clipped at the border: lambda becomes the area really kept.
        return 1 - (bottom - top) * (right - left) / (height * width)

    def _draw(self, rng):
        """(CutMix?, lambda); lambda 1 leaves the pair alone."""
        if rng.random() >= self.prob:
            return False, 1.0
        both = self.mixup_alpha > 0 and self.cutmix_alpha > 0
        cutmix = rng.random() < self.switch_prob if both else self.cutmix_alpha > 0
        alpha = self.cutmix_alpha if cutmix else self.mixup_alpha
        return cutmix, float(rng.beta(alpha, alpha)) if alpha > 0 else 1.0

    @staticmethod
    def _draw_box(shape, lam, rng):
        """(top, bottom, left, right): centre uniform, sides sqrt(1 - lambda) of the image's."""
        edges = []
        for length in shape:
            half = int(length * math.sqrt(1 - lam)) // 2
            centre = int(rng.integers(0, length))
            edges += [max(centre - half, 0), min(centre + half, length)]
        return edges

    def _draw_box_of_range(self, shape, rng):
        """(top, bottom, left, right): whole inside; each side uniform in the range `cutmix_minmax`."""
        edges = []
        for length in shape:
            least, most = (int(length * share) for share in self.cutmix_minmax)
            side = int(rng.integers(least, max(most, least + 1)))
            start = int(rng.integers(0, max(length - side, 1)))
            edges += [start, start + side]
        return edges


def _blend(pair, lam):
    """pair[0], pair[1] -> lam * own + (1 - lam) * other, in place."""
    if lam < 1:
        pair[...] = pair * np.float32(lam) + pair[::-1] * np.float32(1 - lam)
