"""Check the quickstart's arguments against each of its runs, before anything is started or moved.

    python tools/check_quickstart.py RANKS [key=value ...]

Ends with one line and status 1 for the first that is wrong.
"""
import os
import sys

sys.path.insert(0, os.path.join(os.path.dirname(os.path.abspath(__file__)), ".."))

from projects.MAE.command_line import leave, run_command  # noqa: E402
from projects.MAE.errors import UserError  # noqa: E402
from projects.MAE.runtime.single_process import import_oneflow  # noqa: E402

CONFIGS = "projects/MAE/configs"
RUNS = (
    ("quickstart_pretraining.py",),
    ("quickstart_linprobe.py", "--knn"),
    ("quickstart_finetune.py",),
)
# Each run has its own, and reads those of the ones before it.
OWN = ("train.output_dir", "train.load_weight", "finetune.path", "finetune.enable")


def run(argv):
    ranks, *settings = argv
    for setting in settings:
        if setting.startswith("-") or "=" not in setting:
            raise UserError(f"argument {setting!r} is not key=value: see bash tools/quickstart.sh --help")
    import_oneflow()
    from projects.MAE.engine.setup import configure
    from projects.MAE.train_net import parse_arguments

    for config, *options in RUNS:
        file = os.path.join(CONFIGS, config)
        check_own(file, settings)
        # The weights that later runs start from are not there yet.
        own = [] if config == "quickstart_pretraining.py" else ["finetune.enable=False"]
        arguments = ["--config-file", file, *options, *settings, *own]
        configure(parse_arguments(arguments), int(ranks))


def check_own(file, settings):
    """Raise a UserError where settings change what each run of the quickstart has for itself."""
    from omegaconf import OmegaConf

    from projects.MAE.settings.load import load_config

    plain, changed = load_config(file), load_config(file, settings)
    for key in OWN:
        value = OmegaConf.select(changed, key)
        if value != OmegaConf.select(plain, key):
            raise UserError(
                f"{key}={value}: every run of the quickstart has its own {key}: for another, start "
                "tools/train.sh with one of the configurations quickstart_*.py"
            )


if __name__ == "__main__":
    leave(run_command(run, options={}))
