"""Check the quickstart's arguments against each of its runs, before anything is started or moved.

    python tools/check_quickstart.py RANKS [key=value ...]

Ends with one line and status 1 for the first that is wrong.
"""
import os
import sys

sys.path.insert(0, os.path.join(os.path.dirname(os.path.abspath(__file__)), ".."))

from projects.MAE.command_line import leave, run_command  # noqa: E402
from projects.MAE.errors import UserError  # noqa: E402
from projects.MAE.utils.one_process import import_oneflow  # noqa: E402

CONFIGS = "projects/MAE/configs"
RUNS = (
    ("quickstart_pretraining.py",),
    ("quickstart_linprobe.py", "--knn"),
    ("quickstart_finetune.py",),
)
# Each run has its own, and reads those of the ones before it.
OWN = ("train.output_dir", "train.load_weight", "finetune.enable", "finetune.path")


def run(argv):
    ranks, *settings = argv
    for setting in settings:
        key = setting.split("=", 1)[0]
        if setting.startswith("-") or "=" not in setting:
            raise UserError(f"argument {setting!r} is not key=value: see bash tools/quickstart.sh --help")
        if key in OWN:
            raise UserError(
                f"{setting}: every run of the quickstart has its own {key}: for another, start "
                "tools/train.sh with one of the configurations quickstart_*.py"
            )
    import_oneflow()
    from projects.MAE.preparation import configure
    from projects.MAE.train_net import parse_arguments

    for config, *options in RUNS:
        arguments = ["--config-file", os.path.join(CONFIGS, config), *options, *settings]
        # The weights that later runs start from are not there yet.
        own = [] if config == "quickstart_pretraining.py" else ["finetune.enable=False"]
        configure(parse_arguments(arguments + own), int(ranks))


if __name__ == "__main__":
    leave(run_command(run))
