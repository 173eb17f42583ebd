"""Train, finetune, probe or evaluate: bash tools/train.sh projects/MAE/train_net.py CONFIG [N] ..."""
import os
import sys

# LiBai's own tools/train.sh puts the folder of this file on the path, not the repository's root.
sys.path.insert(0, os.path.abspath(os.path.join(os.path.dirname(__file__), "../..")))

from projects.MAE.engine.process import run_rank  # noqa: E402
from projects.MAE.errors import UserError, about  # noqa: E402
from projects.MAE.runtime.quick_import import no_garbage_collection  # noqa: E402


def parse_arguments(argv):
    """LiBai's command line; options may also stand after key=value overrides."""
    from libai.config import default_argument_parser

    parser = default_argument_parser()
    parser.error = _refuse  # argparse would print its usage once a rank and exit with status 2
    parser.add_argument(
        "--knn",
        action="store_true",
        help="classify val/ by the nearest images of train/ in the encoder's features; no training",
    )
    options, overrides = [], []
    for before, word in zip(["", *argv], argv):
        is_override = "=" in word and not word.startswith("-") and before != "--config-file"
        (overrides if is_override else options).append(word)
    return parser.parse_args(options + overrides)


def _refuse(message):
    raise UserError(f"{message}: see bash tools/train.sh --help")


def main(argv):
    with no_garbage_collection():
        args = parse_arguments(argv)
        from projects.MAE.engine.evaluate_weights import evaluate_only, probe_neighbours
        from projects.MAE.engine.setup import prepare, training_of

        run = prepare(args)
    with about("train.output_dir", run.cfg.train.output_dir):
        if args.eval_only:
            evaluate_only(run)
        elif args.knn:
            probe_neighbours(run)
        else:
            training_of(run).train()


if __name__ == "__main__":
    run_rank(main, sys.argv[1:])
