"""Features of images, from Python:

    from projects.MAE import load_encoder

    encoder = load_encoder("output/mae_pretraining")
    features = encoder(["cat.jpg", "dog.jpg"])  # float32 [2, 768]

From the command line: python -m projects.MAE.extract_features.
"""
import os
import warnings

import numpy as np
from PIL import Image

from projects.MAE.data.deep_pixels import LARGEST, BadImage
from projects.MAE.data.image_file import Reading, orientation, read_image, to_rgb
from projects.MAE.data.survey import narrow, reading_of
from projects.MAE.errors import UserError
from projects.MAE.runtime.single_process import start_one_process

FEATURES = ("class", "mean", "all")
LEFT_AS_STORED = (
    "images with an EXIF rotation are left as stored, as the weights don't say: load_encoder(..., "
    "exif='apply') turns them upright"
)


def load_encoder(
    weights, device="auto", batch_size=32, num_heads=None, ema=False, exif=None, bits=None
):
    """The `Encoder` of weights in any format.

    Args:
        weights: an output folder or checkpoint of training, a .pth or safetensors file, a folder of
            transformers.
        device: "auto", "cpu" or "cuda".
        batch_size: images that are encoded at a time.
        num_heads: attention heads, where neither the weights nor their size tell.
        ema: take the averaged weights of a training file that has both.
        exif, bits: how files become pixels, see `Reading`; by default as trained, else as stored.

    Raises:
        UserError: the weights can't be read, take images of other than 3 channels, or it is not known
            how many heads they need.
    """
    start_one_process(device)
    # Its modules need OneFlow set up.
    from projects.MAE.weights.saved_model import load_encoder_model

    saved = load_encoder_model(weights, num_heads=num_heads, ema=ema)
    return Encoder(saved, batch_size, exif, bits)


class Encoder:
    """A trained encoder; call it with images.

    Attributes:
        saved: `weights.saved_model.SavedModel`: sizes, preprocessing, what is known of the weights.
        depth: blocks; width: numbers of a feature; num_tokens: the class token and one a patch.
        default_features: what a head on these weights would take: "mean" for a classifier that
            averages patches, else "class".
    """

    def __init__(self, saved, batch_size=32, exif=None, bits=None):
        sizes = saved.sizes
        self.saved, self.batch_size = saved, batch_size
        self.depth, self.width = sizes.depth, sizes.embed_dim
        self.num_tokens = 1 + (sizes.img_size // sizes.patch_size) ** 2
        self.default_features = "mean" if saved.model.global_pool else "class"
        self.transform, self.reading = saved.preprocessing.transform(), reading_of(saved, exif, bits)
        self._assumes_exif = not (exif or saved.facts.get("exif"))
        self._warned = set()

    def __call__(self, images, features=None, block=None):
        """Features of images.

        Args:
            images: a sequence; each is a path, a `PIL.Image`, which is treated as the file that it
                came from, or uint8 pixels: RGB [H, W, 3] or grey [H, W]. They may differ in size:
                they are resized, cropped and normalised as for the evaluation of the weights.
            features: "class" (the class token), "mean" (of the patch tokens) or "all" (tokens);
                `default_features` by default.
            block: the block whose output to take, 1 to `depth`; the last, with the final norm, by
                default.

        Returns:
            float32 [N, width], or [N, num_tokens, width] of all tokens, the class token first.

        Raises:
            UserError: an image can't be read, or features or block don't exist.
            TypeError: images is no sequence, or an item of it no image.
        """
        features, block = self.check(features, block)
        if isinstance(images, (str, bytes, os.PathLike, Image.Image)):
            raise TypeError("images must be a sequence of images: put one image in a list")
        result = np.empty((len(images), *self.shape(features)), np.float32)
        largest, turned = [], False
        for start in range(0, len(images), self.batch_size):
            batch = [as_rgb(image, self.reading) for image in images[start : start + self.batch_size]]
            if self._assumes_exif:
                turned = turned or any(orientation(image) != 1 for image in batch)
            largest += [image.info[LARGEST] for image in batch if image.info.get(LARGEST)]
            prepared = np.stack([self.transform(image) for image in batch])
            result[start : start + len(batch)] = self.encode(prepared, features, block)
        self._warn("bits", narrow(self.reading, largest, "bits="))
        self._warn("exif", LEFT_AS_STORED if turned else None)
        return result

    def _warn(self, kind, text):
        if text and kind not in self._warned:
            warnings.warn(text, stacklevel=3)
            self._warned.add(kind)

    def check(self, features=None, block=None):
        """(features, block) with the defaults filled in. Raises a UserError where there is no such."""
        features = features or self.default_features
        block = self.depth if block is None else block
        if features not in FEATURES:
            raise UserError(f"features={features} is not known: choose {', '.join(FEATURES)}")
        if not 1 <= block <= self.depth:
            raise UserError(f"block={block}: the encoder has blocks 1 to {self.depth}")
        return features, block

    def shape(self, features):
        """The shape of one image's features."""
        return (self.num_tokens, self.width) if features == "all" else (self.width,)

    def encode(self, images, features, block):
        """Features of float32 [N, 3, img_size, img_size], normalised; the rest as of `check`."""
        import oneflow as flow

        from projects.MAE.modeling.global_tensors import as_input

        model = self.saved.model
        with flow.no_grad():
            x = model.forward_tokens(as_input(images), blocks=block)
            # The final norm belongs to the last block: `norm` is one of tokens, `fc_norm` of the mean.
            last = block == self.depth
            if last and not model.global_pool:
                x = model.norm(x)
            if features == "class":
                x = x[:, 0]
            elif features == "mean":
                x = x[:, 1:].mean(dim=1)
                if last and model.global_pool:
                    x = model.fc_norm(x)
            return x.numpy()


def as_rgb(image, reading=Reading()):
    """A path, a PIL.Image or uint8 pixels as an RGB `PIL.Image`."""
    if isinstance(image, (str, os.PathLike, Image.Image)):
        try:
            if isinstance(image, Image.Image):
                return to_rgb(image, reading)
            return read_image(os.fspath(image), reading)
        except BadImage as error:
            raise UserError(f"cannot read the image {image}: {error}") from None
    if isinstance(image, np.ndarray) and image.dtype == np.uint8 and image.ndim in (2, 3):
        if image.ndim == 2 or image.shape[2] == 3:
            return Image.fromarray(image).convert("RGB")
    what = f"{image.dtype} {image.shape}" if isinstance(image, np.ndarray) else type(image).__name__
    raise TypeError(f"not an image: {what}; give a path, a PIL.Image or uint8 pixels [H, W, 3]")
