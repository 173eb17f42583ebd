"""Write the features that a trained encoder gives images to an .npz file.

    python -m projects.MAE.extract_features --weights W --images DIR --out features.npz

The file holds features, float32, a row an image; files, their names; labels and classes, the
subfolders of DIR (label -1: in none); and settings, a JSON text that says how it was made. It is
written as the images are read, so memory does not grow with their number. A run that was stopped
leaves FILE.partial; the same command goes on from there, and the file is the same, byte by byte.
"""
import json
import sys
import time
import zlib

import numpy as np

from projects.MAE.command_line import (
    CommandParser,
    check_out,
    leave,
    positive,
    prepare_command,
    run_command,
    show,
)
from projects.MAE.data.image_list import ImageList, ImageReader
from projects.MAE.data.workers import read_ahead
from projects.MAE.errors import UserError
from projects.MAE.models import FEATURES, load_encoder
from projects.MAE.utils.feature_file import FeatureFile, Texts

EXAMPLES = """examples:
  # what linear probing and k-NN look at, of a pretraining run
  python -m projects.MAE.extract_features --weights output/quickstart/pretraining \\
      --images output/digits/val --out features.npz
  # the mean of the patch tokens after block 2
  python -m projects.MAE.extract_features --weights output/quickstart/pretraining \\
      --images output/digits/val --out block2.npz --features mean --block 2
  # all tokens of single images, and what the file holds
  python -m projects.MAE.extract_features --weights output/quickstart/finetune \\
      --images output/digits/val/0/*.png --out tokens.npz --features all
  python -c "import numpy; print({k: v.shape for k, v in numpy.load('tokens.npz').items()})"
"""
PROGRESS_SECONDS = 1


def parse_arguments(argv):
    parser = CommandParser("extract_features", __doc__, EXAMPLES)
    parser.add_shared("--weights")
    parser.add_shared("--images", required=True, help="a folder of images, or image files")
    parser.add_shared("--out", required=True, help="the .npz file to write")
    parser.add_argument(
        "--features",
        choices=FEATURES,
        help="the class token, the mean of the patch tokens, or all tokens (default: what a head on "
        "these weights takes: mean for a classifier that averages patches, else class)",
    )
    parser.add_argument(
        "--block",
        type=positive,
        metavar="B",
        help="the block whose output to take, from 1 (default: the last, with the final norm)",
    )
    parser.add_shared("--num-heads")
    parser.add_shared("--batch-size")
    parser.add_shared("--num-workers")
    parser.add_shared("--on-error")
    parser.add_shared("--device")
    parser.add_shared("--force", help="replace FILE, and start anew whatever a stopped run left")
    parser.add_shared("--json")
    return parser.parse_args(argv)


def extract(args, progress):
    """Write the file.

    Args:
        args: of the command line.
        progress: called with (images that are done, all images) after each batch.

    Returns:
        A dict that says what the file holds.

    Raises:
        UserError: see the parts; nothing that is there is lost.
    """
    images = ImageList(args.images)
    if {"train", "val"} <= set(images.classes):
        raise UserError(
            f"--images {images.root}: it holds train/ and val/, which would be classes: name one"
        )
    encoder = load_encoder(args.weights, args.device, args.batch_size, args.num_heads)
    features, block = encoder.check(args.features, args.block)
    saved, size = encoder.saved, encoder.saved.sizes.img_size
    settings = dict(
        weights=saved.source,
        weights_crc32=checksum(saved.model),
        features=features,
        block=block,
        preprocessing=saved.preprocessing._asdict(),
        preprocessing_from=saved.known_from["preprocessing"],
        images=images.root,
        images_sha256=images.checksum(),
        batch_size=args.batch_size,
    )
    arrays = dict(
        settings=json.dumps(settings),
        classes=np.array(images.classes, np.str_),
        labels=images.labels,
        files=Texts(images.name, len(images)),
    )
    shape = encoder.shape(features)
    file = FeatureFile(args.out, arrays, len(images), shape, args.batch_size, args.force)
    try:
        batches = [
            range(start, min(start + args.batch_size, len(images)))
            for start in range(file.done, len(images), args.batch_size)
        ]
        read = ImageReader(images, encoder.transform, size, skip=args.on_error == "skip")
        way_on = f"{file.way_on()} goes on, with a smaller --num-workers if the memory was full"
        for batch in read_ahead(read, batches, args.num_workers, way_on):
            rows = encoder.encode(batch["images"], features, block)
            rows[~batch["readable"]] = np.nan
            file.write(rows)
            progress(file.done, len(images))
        file.finish()
    finally:
        file.close()
    return dict(
        out=args.out,
        images=len(images),
        classes=len(images.classes),
        unreadable=file.missing,
        features=features,
        block=block,
        shape=[len(images), *shape],
    )


def checksum(model):
    """A number that tells one set of weights from another."""
    crc = 0
    for _, parameter in sorted(model.named_parameters()):
        crc = zlib.crc32(np.ascontiguousarray(parameter.numpy()), crc)
    return crc


class Progress:
    """A line on a terminal that says how far it is; nothing where stderr is a file."""

    def __init__(self):
        self._start = self._shown = time.monotonic()
        self._first = None
        self._on = sys.stderr.isatty()

    def __call__(self, done, total):
        now = time.monotonic()
        if self._first is None:  # what an earlier run did, and the first batch, say nothing of speed
            self._first, self._start = done, now
        elif self._on and (now - self._shown >= PROGRESS_SECONDS or done == total):
            speed = (done - self._first) / (now - self._start)
            left = (total - done) / speed
            text = f"{done:,} of {total:,} images, {speed:.1f} a second, {left:.0f} s left"
            print(f"\r{text:<78}", end="\n" if done == total else "", file=sys.stderr, flush=True)
            self._shown = now


def run(argv):
    args = parse_arguments(argv)
    check_out(args.out, args.force)
    prepare_command(args.num_workers)
    result = extract(args, Progress())
    if args.json:
        print(json.dumps(result))
        return
    what = {"class": "class token", "mean": "mean of the patch tokens", "all": "all tokens"}
    show(
        f"{args.out}: {what[result['features']]} after block {result['block']}, float32 "
        f"{result['shape']}, of {result['images']:,} images in {result['classes']} classes"
    )
    if result["unreadable"]:
        show(f"{result['unreadable']:,} images can't be read: their features are NaN")


def main(argv=None):
    """The exit status, see `run_command`."""
    return run_command(run, argv)


if __name__ == "__main__":
    leave(main())
