"""Tell what a classifier sees in images, one that was finetuned or a linear probe.

    python -m projects.MAE.predict --weights W IMAGE...

Prints the most probable classes of each image with their probabilities. Names of classes are those
of the folders it was trained on; weights that come without names, as the authors', need --classes.
"""
import functools
import json

import numpy as np

from projects.MAE.command_line import (
    CommandParser,
    leave,
    positive,
    prepare_command,
    run_command,
    show,
)
from projects.MAE.data.datasets import comparable
from projects.MAE.data.image_list import ImageList
from projects.MAE.data.survey import reader_of
from projects.MAE.data.workers import read_ahead
from projects.MAE.errors import UserError
from projects.MAE.runtime.single_process import start_one_process

EXAMPLES = """examples:
  # the quickstart's classifier
  python -m projects.MAE.predict --weights output/quickstart/finetune output/digits/val/7/*.png
  # the best class alone, of all images of a folder, for another program
  python -m projects.MAE.predict --weights output/quickstart/finetune -k 1 --json \\
      output/digits/val/7
"""


def parse_arguments(argv):
    parser = CommandParser("predict", __doc__, EXAMPLES)
    parser.add_shared("--weights")
    parser.add_argument("images", metavar="IMAGE", nargs="+", help="image files, or folders of them")
    parser.add_argument(
        "-k", type=positive, default=5, help="how many classes to print (default: %(default)s)"
    )
    parser.add_argument(
        "--classes", metavar="FILE", help="a text file with the names of the classes, one a line"
    )
    parser.add_shared("--num-heads", "--ema")
    parser.add_shared("--batch-size", default=16)
    parser.add_shared("--num-workers", default=0)
    parser.add_shared("--on-error", "--exif", "--bits", "--device", "--json")
    return parser.parse_args(argv)


def predictions(saved, images, args):
    """Yield (path, probabilities float64 [classes]) of each image of an `ImageList`; None for
    probabilities where it can't be read. saved: `SavedModel` of a classifier."""
    import oneflow as flow

    from projects.MAE.modeling.global_tensors import as_input

    read = reader_of(saved, images, args)
    every, size = range(len(images)), args.batch_size
    batches = [every[start : start + size] for start in every[::size]]
    way_on = "start again, with a smaller --num-workers if the memory was full"
    for indices, batch in zip(batches, read_ahead(read, batches, args.num_workers, way_on)):
        with flow.no_grad():
            scores = saved.model(as_input(batch["images"]))["prediction_scores"].numpy()
        for index, row, readable in zip(indices, softmax(scores), batch["readable"]):
            yield images.path(index), row if readable else None


def softmax(scores):
    """float [N, classes] -> float64, rows that sum to 1."""
    exponentials = np.exp(scores.astype(np.float64) - scores.max(axis=1, keepdims=True))
    return exponentials / exponentials.sum(axis=1, keepdims=True)


def best(probabilities, k, classes):
    """The k most probable classes of an image: [{"index", "class", "probability"}]."""
    order = np.argsort(-probabilities, kind="stable")[:k].tolist()
    names = [classes[i] if i < len(classes) else None for i in order]
    return [
        {"index": i, "class": name, "probability": float(probabilities[i])}
        for i, name in zip(order, names)
    ]


def class_names(saved, path):
    """The names of the classes, from the file if there is one; [] where nobody tells."""
    if path is None:
        return saved.facts.get("classes", [])
    try:
        with open(path, encoding="utf-8-sig") as file:
            names = [line.strip() for line in file if line.strip()]
    except (OSError, UnicodeDecodeError) as error:
        raise UserError(f"--classes {path}: can't be read: {error}") from None
    if len(names) != saved.sizes.num_classes:
        raise UserError(
            f"--classes {path}: {len(names)} names, but {saved.source} has "
            f"{saved.sizes.num_classes} classes: a name a line is needed, in the order of the classes"
        )
    known = saved.facts.get("classes", names)
    ours, theirs = comparable(names), comparable(known)
    if ours != theirs and sorted(ours) == sorted(theirs):
        raise UserError(
            f"--classes {path}: its names are those that {saved.source} has, in another order: leave "
            "--classes out"
        )
    return names


def as_lines(path, found):
    """The lines of an image, as a list."""
    if found is None:
        return [path, "  can't be read"]
    names = [f"class {x['index']}" if x["class"] is None else x["class"] for x in found]
    return [path, *(f"{100 * x['probability']:7.2f} %  {name}" for x, name in zip(found, names))]


def run(argv):
    args = parse_arguments(argv)
    prepare_command(args.num_workers)
    images = ImageList(args.images, option="IMAGE")
    start_one_process(args.device)
    from projects.MAE.weights.saved_model import load_classifier  # it needs OneFlow set up

    saved = load_classifier(args.weights, num_heads=args.num_heads, ema=args.ema)
    classes = class_names(saved, args.classes)
    separator = "["
    for path, probabilities in predictions(saved, images, args):
        found = None if probabilities is None else best(probabilities, args.k, classes)
        if not args.json:
            for line in as_lines(path, found):
                show(line)
            continue
        print(separator + json.dumps({"image": path, "predictions": found}), end="", flush=True)
        separator = ",\n "
    if args.json:
        print("]")


main = functools.partial(run_command, run)

if __name__ == "__main__":
    leave(main())
