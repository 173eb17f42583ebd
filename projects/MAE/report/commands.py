"""How to go on from a run: commands that can be run as they stand from the repository's root."""
import os
import shlex

CONFIGS = "projects/MAE/configs"
TRAIN = ["bash", "tools/train.sh", "projects/MAE/train_net.py"]
# Settings that say what the model and the data are, so that a run on the same needs them, too.
SHARED = ("vit.", "model.", "dataloader.")
# Settings of the model that a classifier has not.
AUTOENCODER_ONLY = ("model.decoder_", "model.mask_ratio", "model.norm_pix_loss")


def next_commands(run):
    """[(what for, command), ...] for a `Run`, the most likely first."""
    if not run.checkpoints:
        return []
    folder = run.folder.rstrip("/")
    config, ranks, overrides = _started_with(run)
    machines, ranks = _machines(run, ranks)
    train, found = [*machines, *TRAIN], []
    if run.planned and run.iterations < run.planned:
        found.append(("Go on with the run", [*train, config, *ranks, "--resume", *overrides]))
    shared = [setting for setting in overrides if setting.startswith(SHARED)]
    if run.kind == "pretraining":
        classifier = [setting for setting in shared if not setting.startswith(AUTOENCODER_ONLY)]
        for what, suffix in [("Finetune a classifier", "finetune"), ("Probe it linearly", "linprobe")]:
            sibling = _sibling(config, suffix) or ("FINETUNE_CONFIG" if suffix == "finetune" else None)
            if sibling:
                path = f"finetune.path={folder}"
                output = f"train.output_dir={folder}_{suffix}"
                found.append((what, [*train, sibling, *ranks, path, output, *classifier]))
        probe = _sibling(config, "linprobe")
        if probe:
            where = [f"finetune.path={folder}", f"train.output_dir={folder}/knn"]
            nearest = [*train, probe, *ranks, "--knn", *where, *classifier]
            found.append(("Judge its features by nearest neighbours", nearest))
        pictures = _module("visualize", folder, "--out", f"{folder}/reconstruction.png")
        found.append(("Look at reconstructions", pictures))
    elif run.kind in ("finetuning", "linear probing"):
        found.append(("Classify images of your own", _module("predict", folder, "IMAGE")))
    where = [f"train.load_weight={folder}", f"train.output_dir={folder}/evaluation"]
    found.append(("Evaluate it", [*train, config, *ranks, "--eval-only", *where, *shared]))
    where = ["--images", "FOLDER", "--out", f"{folder}/features.npz"]
    found.append(("Features of images of your own", _module("extract_features", folder, *where)))
    found.append(("Compare it with another run", ["python", "-m", "projects.MAE.report", folder, "OTHER"]))
    return [(what, shlex.join(command)) for what, command in found]


def _started_with(run):
    """Configuration, number of ranks and settings of a run, as far as they are known."""
    arguments = run.environment.get("arguments")
    arguments = [str(a) for a in arguments] if isinstance(arguments, list) else []
    ranks = run.environment.get("ranks")
    config = "CONFIG"
    if "--config-file" in arguments[:-1]:
        config = _short(arguments[arguments.index("--config-file") + 1])
    overrides = [a for a in arguments if "=" in a and not a.startswith("-")]
    if not any(setting.startswith("train.output_dir=") for setting in overrides):
        overrides.append(f"train.output_dir={run.folder.rstrip('/')}")
    return config, ranks if isinstance(ranks, int) else None, overrides


def _machines(run, ranks):
    """The words before a command of tools/train.sh, and its N: the ranks of one machine.

    With several machines the command is to be given on each, with its number.
    """
    # In config.yaml where an earlier version of this code wrote it.
    machines = run.environment.get("machines", run.setting("train.dist.num_nodes"))
    if ranks is None:
        return [], []
    if not isinstance(machines, int) or machines < 2 or ranks % machines:
        return [], [str(ranks)]
    return [f"NODE={machines}", "NODE_RANK=NUMBER", "ADDR=ADDRESS"], [str(ranks // machines)]


def _short(config):
    """A configuration of this repository by its path in there, another by its whole path."""
    place = config.find(CONFIGS)
    return config[place:] if place >= 0 else config


def _sibling(config, suffix):
    """The configuration beside a pretraining one that goes on from it, None where there is none."""
    if not config.endswith("_pretraining.py"):
        return None
    sibling = f"{config[: -len('pretraining.py')]}{suffix}.py"
    repository = os.path.abspath(os.path.join(os.path.dirname(__file__), "../../.."))
    return sibling if os.path.isfile(os.path.join(repository, sibling)) else None


def _module(name, folder, *arguments):
    return ["python", "-m", f"projects.MAE.{name}", "--weights", folder, *arguments]
