"""What is done to an image before a trained model sees it."""
import collections

from omegaconf import OmegaConf

from projects.MAE.data import transforms
from projects.MAE.data.image_file import Reading, told_reading
from projects.MAE.data.transforms import IMAGENET_MEAN, IMAGENET_STD


class Preprocessing(
    collections.namedtuple("Preprocessing", "resize crop mean std resample", defaults=["bicubic"])
):
    """The evaluation transform in plain values, as model cards keep it.

    Attributes:
        resize: pixels of the shorter side; or (height, width), to which images are stretched.
        crop: side of the central crop, in pixels: the model's img_size.
        mean, std: three floats each, of pixels scaled to [0, 1].
        resample: the filter, one of `transforms.FILTERS`.
    """

    def transform(self):
        """The transform, `(RGB PIL.Image) -> float32 [3, crop, crop]`; it can be pickled."""
        resize = transforms.Resize(self.resize, resample=self.resample)
        to_array = transforms.ToArray(self.mean, self.std)
        return transforms.Compose([resize, transforms.CenterCrop(self.crop), to_array])

    def __str__(self):
        resize = "x".join(map(str, self.resize)) if isinstance(self.resize, tuple) else self.resize
        mean, std = (", ".join(f"{value:g}" for value in values) for values in (self.mean, self.std))
        return f"resize {resize} {self.resample}, crop {self.crop}, mean ({mean}), std ({std})"


WHOLE = ("resize", "crop", "mean", "std")  # what a card of a usual preprocessing has


def standard_preprocessing(img_size):
    """The paper's: resize so that the crop is `paper_crop_ratio` of the shorter side, ImageNet's mean
    and std."""
    side = int(img_size / transforms.paper_crop_ratio(img_size))
    return Preprocessing(side, img_size, IMAGENET_MEAN, IMAGENET_STD)


def told_preprocessing(told, img_size):
    """The `Preprocessing` of {field: value} as JSON has them; the paper's where nothing is said."""
    plain = {k: tuple(v) if isinstance(v, (list, tuple)) else v for k, v in told.items()}
    return standard_preprocessing(img_size)._replace(**plain)


def configured_preprocessing(cfg):
    """The `Preprocessing` of a configuration's evaluation; None where it is of another form."""
    steps = OmegaConf.select(cfg, "dataloader.test.0.dataset.transform.transforms")
    return steps and described_preprocessing([dict(step) for step in steps])


def both_preprocessings(told, cfg):
    """What weights say of images, for the size that a configuration has, and what that does itself.

    Args:
        told: {field: value} as a model card has it, or None.

    Returns:
        Two `Preprocessing`s; the second None where it is of another form, and the first the same as
        the second where the weights don't say, or neither says all. Of weights of another image size mean, std and filter
        count.
    """
    ours, side = configured_preprocessing(cfg), cfg.model.img_size
    if not told or ours is None and not set(WHOLE) <= set(told):  # of a run with transforms of its own
        return ours, ours
    theirs = told_preprocessing(told, side)
    if theirs.crop != side:
        kept = dict(mean=theirs.mean, std=theirs.std, resample=theirs.resample)
        theirs = (ours or standard_preprocessing(side))._replace(**kept)
    return theirs, ours


def both_readings(facts, cfg):
    """How files become pixels: two `Reading`s, as weights say it and as a configuration does.

    Where weights say nothing the first is the configuration's; data.bits that it sets is, too: it tells
    of the files, which may be others than those of the weights.

    Args:
        facts: what is known of the weights, as a model card has it.
    """
    data = cfg.get("data") or {}
    ours = Reading(data.get("exif", "apply"), data.get("bits"))
    return told_reading({**facts, "bits": ours.bits or facts.get("bits")}, ours), ours


def described_preprocessing(steps):
    """The `Preprocessing` that a configuration's list of transforms means, None for any other:
    [{"_target_": class or its dotted name, argument: value}], interpolations resolved.
    """
    calls = [dict(step) for step in steps]
    targets = [call.pop("_target_", "") for call in calls]
    names = [t.__name__ if callable(t) else t.rsplit("data.transforms.", 1)[-1] for t in targets]
    if names != ["Resize", "CenterCrop", "ToArray"]:
        return None
    resize, crop, to_array = calls
    size = transforms.Resize(resize["size"], resize.get("crop_ratio", 1.0)).size
    return Preprocessing(
        tuple(size) if isinstance(size, list) else size,
        crop["size"],
        tuple(to_array.get("mean", IMAGENET_MEAN)),
        tuple(to_array.get("std", IMAGENET_STD)),
        resize.get("resample", "bicubic"),
    )
