"""Make a report of a run, or compare several: one HTML file that needs no network.

    python -m projects.MAE.report OUTPUT_DIR... [--out FILE]

It shows loss, rate, accuracy and throughput as curves, reconstructions, the weights that were made,
how to go on, the settings and the versions; with several folders it compares them. A run that still
goes on, was resumed, or lost a line of its figures can be reported, too.
"""
import os
import sys

from projects.MAE.command_line import CommandParser, check_out, run_command, show
from projects.MAE.report.save import NAME, save_report

EXAMPLES = """examples:
  # of one run, as output/quickstart/pretraining/report.html
  python -m projects.MAE.report output/quickstart/pretraining
  # finetuned beside trained from scratch
  python -m projects.MAE.report output/quickstart/finetune output/quickstart/scratch --out both.html
"""


def parse_arguments(argv):
    parser = CommandParser("report", __doc__, EXAMPLES)
    parser.add_argument("folders", metavar="OUTPUT_DIR", nargs="+", help="train.output_dir of a run")
    parser.add_shared(
        "--out", help=f"HTML (default: {NAME} in the folder of the run, or here for several)"
    )
    parser.add_shared("--force")
    return parser.parse_args(argv)


def run(argv):
    args = parse_arguments(argv)
    if args.out is None and len(args.folders) == 1:
        path = os.path.join(args.folders[0], NAME)  # ours, to be made anew as the run goes on
    else:
        path = args.out or NAME
        check_out(path, args.force)
    save_report(args.folders, path)
    show(path)


def main(argv=None):
    """The exit status, see `run_command`."""
    return run_command(run, argv)


if __name__ == "__main__":
    sys.exit(main())
