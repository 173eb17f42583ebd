"""What is done to an image before a trained model sees it."""
import collections

from projects.MAE.data import transforms
from projects.MAE.data.transforms import IMAGENET_MEAN, IMAGENET_STD


class Preprocessing(collections.namedtuple("Preprocessing", "resize crop mean std")):
    """The evaluation transform in plain values, as model cards keep it.

    Attributes:
        resize: pixels of the shorter side, bicubic.
        crop: side of the central crop, in pixels: the model's img_size.
        mean, std: three floats each, of pixels scaled to [0, 1].
    """

    def transform(self):
        """The transform, `(RGB PIL.Image) -> float32 [3, crop, crop]`; it can be pickled."""
        resize, crop = transforms.Resize(self.resize), transforms.CenterCrop(self.crop)
        return transforms.Compose([resize, crop, transforms.ToArray(self.mean, self.std)])


def standard_preprocessing(img_size):
    """The paper's: resize so that the crop is `paper_crop_ratio` of the shorter side, ImageNet's mean
    and std."""
    side = int(img_size / transforms.paper_crop_ratio(img_size))
    return Preprocessing(side, img_size, IMAGENET_MEAN, IMAGENET_STD)


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
    return Preprocessing(
        transforms.Resize(**resize).size,
        crop["size"],
        tuple(to_array.get("mean", IMAGENET_MEAN)),
        tuple(to_array.get("std", IMAGENET_STD)),
    )
