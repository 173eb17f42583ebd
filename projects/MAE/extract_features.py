"""Write the features that a trained encoder gives images to an .npz file.

    python -m projects.MAE.extract_features --weights W --images DIR --out features.npz

The file holds features, float32, a row an image; files, their names; labels and classes, the
subfolders of DIR (label -1: in none); and settings, a JSON text that says how it was made. Rows are
written as the images are read, so memory does not grow with their number. A run that was stopped
leaves FILE.partial; the same command goes on from there, and the file is the same, byte by byte.
"""
import contextlib
import errno
import functools
import json
import math
import os
import sys
import time
import zlib
from zipfile import ZIP_DEFLATED, ZIP_STORED, ZipFile, ZipInfo

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
from projects.MAE.data.image_list import ImageList
from projects.MAE.data.survey import reader_of
from projects.MAE.data.workers import read_ahead
from projects.MAE.errors import UserError
from projects.MAE.models import FEATURES, load_encoder
from projects.MAE.utils.disk import free_bytes, readable_size, reason, replaced
from projects.MAE.utils.row_file import OtherRows, RowFile

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
LONG_AGO = (1980, 1, 1, 0, 0, 0)  # a zip file's first day: no time of writing in the file


def parse_arguments(argv):
    parser = CommandParser("extract_features", __doc__, EXAMPLES)
    parser.add_shared("--weights")
    parser.add_shared("--images", required=True, help="a folder of images, or image files")
    parser.add_shared("--out", required=True, help="the .npz file to write")
    parser.add_argument(
        "--features",
        choices=FEATURES,
        help="the class token, the mean of the patch tokens, or all tokens (default: what a head "
        "on these weights takes: mean for a classifier that averages patches, else class)",
    )
    parser.add_argument(
        "--block",
        type=positive,
        metavar="B",
        help="the block whose output to take, from 1 (default: the last, with the final norm)",
    )
    parser.add_shared("--num-heads", "--ema", "--batch-size", "--num-workers", "--on-error")
    parser.add_shared("--exif", "--bits", "--device")
    parser.add_shared("--force", help="replace FILE, and start anew whatever a stopped run left")
    parser.add_shared("--json")
    return parser.parse_args(argv)


def extract(args, progress):
    """Write the file that the command line asks for; returns a dict that says what it holds.

    Args:
        progress: called with (images that are done, all images) after each batch.
    """
    images = ImageList(args.images)
    if {"train", "val"} <= set(images.classes):
        what = "it holds train/ and val/, which would be classes: name one"
        raise UserError(f"--images {images.root}: {what}")
    encoder = load_encoder(args.weights, args.device, args.batch_size, args.num_heads, args.ema)
    features, block = encoder.check(args.features, args.block)
    saved = encoder.saved
    read = reader_of(saved, images, args)
    settings = dict(
        weights=saved.source,
        weights_crc32=checksum(saved.model),
        features=features,
        block=block,
        preprocessing=saved.preprocessing._asdict(),
        preprocessing_from=saved.known_from["preprocessing"],
        **read.reading._asdict(),
        images=images.root,
        images_sha256=images.checksum(),
        batch_size=args.batch_size,
    )
    shape = encoder.shape(features)
    with contextlib.closing(open_rows(args, settings, images, shape)) as rows:
        check_room(args.out, rows)
        advice = f"{way_on(args)} goes on, with a smaller --num-workers if the memory was full"
        every = range(rows.count)
        starts = every[rows.done :: args.batch_size]
        to_come = [every[start : start + args.batch_size] for start in starts]
        for batch in read_ahead(read, to_come, args.num_workers, advice):
            encoded = encoder.encode(batch["images"], features, block)
            encoded[~batch["readable"]] = np.nan
            with told(args, rows):
                rows.write(encoded)
            progress(rows.done, rows.count)
        with told(args, rows):
            unreadable = pack(args.out, settings, images, rows)
            rows.remove()
    return dict(
        out=args.out,
        images=len(images),
        classes=len(images.classes),
        unreadable=unreadable,
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


def open_rows(args, settings, images, shape):
    """The `RowFile` for the features, with the rows that a stopped run of the same has left."""
    partial = f"{args.out}.partial"
    of = json.dumps([settings, images.classes])
    try:
        return RowFile(partial, of, len(images), shape, args.batch_size, args.force)
    except OtherRows:
        raise UserError(
            f"{partial}: left by a stopped run with other settings, images or weights, or images "
            "that were changed since, or by an earlier version: give the same to go on, or --force "
            "to start anew"
        ) from None
    except OSError as error:
        raise UserError(f"--out {partial}: can't be written: {error.strerror}") from None


def check_room(out, rows):
    """Raise a UserError where the disk has no room for the rows to come, and for all once more."""
    needed = (2 * rows.count - rows.done) * 4 * math.prod(rows.shape)
    free = free_bytes(os.path.dirname(out) or ".")
    if needed > free:
        raise UserError(
            f"--out {out}: the features need {readable_size(needed)} more until they are packed, "
            f"and the disk has {readable_size(free)}: name another disk"
        )


@contextlib.contextmanager
def told(args, rows):
    """Turn what the disk refuses into a UserError."""
    try:
        yield
    except OSError as error:
        raise UserError(
            f"--out {args.out}: {reason(error, os.path.dirname(args.out) or '.')}: {rows.done:,} "
            f"of {rows.count:,} images are kept in {rows.path}; {way_on(args)} goes on from there"
        ) from None


def way_on(args):
    """What goes on after a stop, as the beginning of a sentence."""
    if not args.force:
        return "the same command"
    command = "the same command without --force"  # which would start anew
    # It would be refused where the target exists.
    there = os.path.lexists(args.out)
    return f"when {args.out} is moved away, {command}" if there else command


def pack(out, settings, images, rows):
    """Write the .npz file; returns how many rows are NaN, those of images that can't be read."""
    small = dict(
        settings=np.array(json.dumps(settings)),
        classes=np.array(images.classes, np.str_),
        labels=images.labels,
    )
    name_of, count, packed, unreadable = images.name, rows.count, 0, 0
    text = f"<U{max(len(name_of(index)) for index in range(count))}"
    # This process alone has the rows, so no other one writes there.
    with replaced(out, f"{out}.packing") as beside, ZipFile(beside, "w") as archive:
        for name, array in small.items():
            with new_member(archive, name, array.dtype.str, array.shape) as member:
                member.write(array.tobytes())
        # Neither all names nor all rows need fit into the memory.
        with new_member(archive, "files", text, (count,)) as member:
            for index in range(count):
                member.write(np.array(name_of(index), text).tobytes())
        with new_member(archive, "features", "<f4", (count, *rows.shape), ZIP_STORED) as member:
            for group in rows.groups():
                member.write(group.tobytes())
                packed += len(group)
                unreadable += int(np.isnan(group).reshape(len(group), -1).all(axis=1).sum())
        if packed < count:
            raise OSError(errno.EIO, "rows that were written can't be read")
    return unreadable


def new_member(archive, name, dtype, shape, compression=ZIP_DEFLATED):
    """Begin an array of an .npz file; returns the file to write the array's bytes to."""
    entry = ZipInfo(f"{name}.npy", LONG_AGO)
    entry.compress_type = compression
    member = archive.open(entry, "w", force_zip64=True)
    header = dict(descr=dtype, fortran_order=False, shape=shape)
    np.lib.format.write_array_header_1_0(member, header)
    return member


class Progress:
    """A line on a terminal that says how far it is; nothing where stderr is a file."""

    def __init__(self):
        self._start = self._shown = time.monotonic()
        self._first = None
        self._on = sys.stderr.isatty()

    def __call__(self, done, total):
        now = time.monotonic()
        if self._first is None:  # an earlier run, and the first batch, say nothing of speed
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


main = functools.partial(run_command, run)

if __name__ == "__main__":
    leave(main())
