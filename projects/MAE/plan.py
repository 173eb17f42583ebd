"""Tell how much memory a rank needs, for every layout of N ranks: nothing is built or started.

    python -m projects.MAE.plan CONFIG N [key=value ...]

CONFIG and key=value are those of training. The table has a line for each way to share out N ranks
as data x tensor x pipeline parallel ranks, for the configured model or, where a recipe chooses its
size by vit.size and none is given, for Base, Large and Huge. All lines have the same global batch.
"""
import json

from projects.MAE.command_line import CommandParser, leave, run_command
from projects.MAE.errors import UserError
from projects.MAE.runtime.single_process import import_oneflow

EXAMPLES = """examples:
  # the pretraining recipe on 8 GPUs of 24 GiB: Base, Large and Huge, all layouts
  python -m projects.MAE.plan projects/MAE/configs/mae_pretraining.py 8 --memory 24
  # finetuning Huge on 16 GPUs, with activation checkpointing
  python -m projects.MAE.plan projects/MAE/configs/mae_finetune.py 16 vit.size=huge \\
      train.activation_checkpoint.enabled=True
  # CPU ranks instead of GPUs, for another program
  python -m projects.MAE.plan projects/MAE/configs/quickstart_pretraining.py 2 \\
      train.device=cpu --json
"""
LEGEND = """GiB of the rank that needs most; stage is its pipeline stage.
layout: data x tensor x pipeline parallel ranks, * as configured.
batch: micro-batch x accumulation steps. sums: what adding up over ranks needs.
"""
NOTES = {
    "cuda": """GPU figures are computed and were never measured: leave a tenth free. A process is
assumed to need 1 GiB besides.""",
    "cpu": """Resident memory in training steps, with the native kernels; workers that read images,
evaluation and checkpoints come on top.""",
}
GIB = 2**30
# The parts of a rank's memory, and what the columns of the table call them.
COLUMNS = dict(
    parameters="parameters",
    gradients="gradients",
    optimizer="optimizer",
    activations="activations",
    communication="sums",
    process="process",
)


def parse_arguments(argv):
    parser = CommandParser("plan", __doc__, EXAMPLES)
    parser.add_argument("config", metavar="CONFIG", help="a LazyConfig file, as for training")
    parser.add_argument("ranks", metavar="N", help="number of ranks: GPUs, or CPU processes")
    parser.add_argument(
        "overrides", metavar="key=value", nargs="*", help="settings, as for training"
    )
    parser.add_argument(
        "--memory",
        type=float,
        metavar="GIB",
        help="memory a rank has: say what fits, and the largest micro-batch that does",
    )
    parser.add_shared("--json", help="print JSON with bytes, for another program")
    args = parser.parse_intermixed_args(argv)
    if not args.ranks.isdecimal() or int(args.ranks) < 1:
        raise UserError(f"N={args.ranks} must be a number of ranks, at least 1")
    args.ranks = int(args.ranks)
    if args.memory is not None and not args.memory > 0:
        raise UserError(f"--memory {args.memory} must be a number of GiB above 0")
    return args


def table(result):
    """The plan as lines of text; GiB are 2**30 bytes."""
    lines = []
    for model in result["models"]:
        name = f"ViT-{model['size'].capitalize()}: " if model["size"] else ""
        lines += [
            f"{name}{model['model']}",
            f"{result['ranks']} {result['device']} ranks, global batch "
            f"{model['global_batch_size']}, {model['settings']}",
            *table_of_layouts(model["layouts"], result["memory"] is not None),
            "",
        ]
    return lines + [LEGEND + NOTES[result["device"]]]


def table_of_layouts(layouts, with_memory):
    """The columns of one model, a line a layout."""
    rows = [["layout", "batch", "stage", *COLUMNS.values(), "total"]]
    rows[0] += ["fits", "largest micro-batch"] if with_memory else []
    for line in layouts:
        mark = "*" if line["configured"] else " "
        row = [
            f"{line['data']} x {line['tensor']} x {line['pipeline']} {mark}",
            f"{line['micro_batch']} x {line['accumulation_steps']}",
            str(line["stage"]),
        ]
        row += [f"{line[part] / GIB:.2f}" for part in (*COLUMNS, "total")]
        if with_memory:
            row += ["yes" if line["fits"] else "no", str(line["largest_micro_batch"] or "none")]
        rows.append(row)
    widths = [max(map(len, column)) for column in zip(*rows)]
    return ["  ".join(c.rjust(w) for c, w in zip(row, widths)) for row in rows]


def run(argv):
    args = parse_arguments(argv)
    import_oneflow()
    from projects.MAE.engine.layout_plan import plan  # configurations are made of OneFlow's classes

    result = plan(args)
    if args.json:
        print(json.dumps(result, indent=1))
    else:
        print("\n".join(table(result)))


def main(argv=None):
    """The exit status, see `run_command`."""
    return run_command(run, argv)


if __name__ == "__main__":
    leave(main())
