"""What a checkpoint says of the model and the run that it belongs to: its model card."""
import inspect

import numpy as np
from omegaconf import ListConfig

from projects.MAE.data.datasets import classes_of, comparable, files_of, place_of
from projects.MAE.data.preprocessing import configured_preprocessing
from projects.MAE.errors import UserError
from projects.MAE.runtime.lazy_call import class_name, is_call, target_of

# What a card's entries are called in messages, where that is not model.KEY.
NAMES = {
    "global_batch_size": "train.global_batch_size",
    "seed": "train.seed",
    "model": "model",
    "optimizer": "optim",
    "images": "training images",
    "exif": "data.exif",
    "bits": "data.bits",
    "preprocessing.mean": "data.mean",
    "preprocessing.std": "data.std",
    "preprocessing.resize": "dataloader.test.0.dataset.transform: resize",
    "preprocessing.resample": "dataloader.test.0.dataset.transform: resample",
    "preprocessing.crop": "model.img_size",
}
PLAIN = (bool, int, float, str, type(None))
LISTS = {"classes": "class folders", "image_list": "names of the training images"}


def run_card(run):
    """What a checkpoint says of its model and `Run` without the data: kind, sizes, optimizer, batch,
    seed, and how images are prepared and augmented."""
    cfg = run.cfg
    sizes = {k: v for k, v in cfg.model.items() if isinstance(v, (int, float, bool, str))}
    return {
        **_images_as_prepared(cfg),
        "model": class_name(cfg.model),
        **sizes,
        "global_batch_size": run.batch.total,
        "seed": cfg.train.seed,
        "optimizer": class_name(cfg.optim),
        "augmentation": _augmentation(cfg.dataloader.train),
    }


def _images_as_prepared(cfg):
    """How files become pixels, and pixels the model's input in an evaluation; mean and std alone where
    that is no usual one."""
    data = cfg.get("data", {})
    told = {"exif": data.exif, "bits": data.get("bits") or 16} if "exif" in data else {}
    found = configured_preprocessing(cfg)
    if found:
        return {**told, "preprocessing": _plain(found._asdict())}
    if "mean" in data and "std" in data:
        told["preprocessing"] = {"mean": list(data.mean), "std": list(data.std)}
    return told


def _augmentation(train):
    """{key of a setting: value} of what training makes of images: transforms and mixup, with all of
    their arguments; of a call its name."""
    datasets = train.get("dataset") or []
    nodes = {"dataloader.train.mixup": train.get("mixup")}
    for i, dataset in enumerate([datasets] if is_call(datasets) else datasets):
        nodes[f"dataloader.train.dataset.{i}.transform"] = dataset.get("transform")
    return dict(pair for key, node in nodes.items() for pair in _settings(key, node))


def _settings(key, value):
    if is_call(value):
        yield key, class_name(value)
        defaults = inspect.signature(target_of(key, value)).parameters
        given = {name: value[name] for name in value if name != "_target_"}
        for name, part in {**{n: p.default for n, p in defaults.items()}, **given}.items():
            yield from _settings(f"{key}.{name}", part)
    elif isinstance(value, (list, tuple, ListConfig)):
        is_plain = all(isinstance(part, PLAIN) for part in value)
        names = (class_name(part) if is_call(part) else "..." for part in value)
        yield key, list(value) if is_plain else ", ".join(names)
        for i, part in enumerate(() if is_plain else value):
            yield from _settings(f"{key}.{i}", part)
    elif isinstance(value, PLAIN):
        yield key, value


def _plain(values):
    """As JSON has them."""
    return {k: list(v) if isinstance(v, (tuple, ListConfig)) else v for k, v in values.items()}


def model_card(run, dataset):
    """`run_card`, with what is known of the data: the number of training images, a checksum of their
    list, the names of their classes."""
    card = {**run_card(run), "images": len(dataset), "classes": classes_of(dataset)}
    files = [files_of(part) for part in getattr(dataset, "datasets", [dataset])]
    checksums = [found.checksum for found in files if found]
    if checksums:  # of several data sets all
        card["image_list"] = "-".join(checksums)
    return card


def columns_of(classes, dataset, subset, path, outputs=0):
    """Where a head has the classes of a data set: compared by name, as a place means something else
    to each.

    Args:
        classes: names of the classes that the weights were trained on, in the order of the head.
        dataset: the data to evaluate, labelled.
        subset: whether a part of the classes will do (ImageNet-A and -R have 200 of the 1000).
        path: the weights, for errors.
        outputs: of the head; those that nobody named are classes, too, named as transformers does.

    Returns:
        int64 [dataset.num_classes], places in the head; None where labels are those places already.

    Raises:
        UserError: data of a class that the weights don't know; a class without data, and no subset.
    """
    classes = classes + [f"LABEL_{i}" for i in range(len(classes), outputs)]
    classes, found = comparable(classes), comparable(classes_of(dataset))
    if found == classes:
        return None
    missing, unknown = (_some(set(a) - set(b)) for a, b in ((classes, found), (found, classes)))
    twice = any(len(set(names)) < len(names) for names in (classes, found))
    if unknown or missing and not subset or twice:
        lists = {"without data": missing, "unknown to it": unknown}
        says = [f"{what}: {names}" for what, names in lists.items() if names]
        way_out = "evaluate on the class folders that it was trained on"
        if not set(classes) & set(found):  # ImageNet's folders have numbers, config.json has words
            way_out = "name the class folders as the weights do, or their classes (id2label of a "
            way_out += "config.json, classes of a model card) as the folders"
        if missing and not unknown:
            way_out = "train.evaluation.classes=subset evaluates it on these classes alone"
        raise UserError(
            f"it was trained on {len(classes)} classes, and {place_of(dataset)} has {len(found)} class "
            f"folders; {'; '.join(says) or 'a name stands for two classes'}: {way_out}",
            path=path,
        )
    return np.array([classes.index(name) for name in found])


def _some(names):
    """Names for a message: "3 (a, b, c)", the first ten of many; "" for none."""
    names = sorted(names)
    more = ", ..." if len(names) > 10 else ""
    return f"{len(names)} ({', '.join(names[:10])}{more})" if names else ""


def check_heads(card, model_cfg, checkpoint):
    """Raise a UserError where a model differs from its weights in what no tensor's shape shows."""
    for key in ("num_heads", "decoder_num_heads", "global_pool", "norm_pix_loss"):
        if card.get(key) is not None and key in model_cfg and card[key] != model_cfg[key]:
            raise UserError(
                f"model.{key}={model_cfg[key]}, but {checkpoint} was trained with {card[key]}: set "
                f"model.{key}={card[key]}"
            )


def differing_aims(card, model_cfg):
    """A line for each way in which pretraining of weights and of a model differ, after their name."""
    for key in ("norm_pix_loss", "mask_ratio"):
        if card.get(key) is not None and key in model_cfg and card[key] != model_cfg[key]:
            yield f"was trained with {key}={card[key]}: model.{key}={model_cfg[key]} is used"


def difference_of_runs(card, current):
    """Where a checkpoint's run differs from another, None where it may go on as that one.

    Args:
        card: what the checkpoint says of its run.
        current: the same of the other run, or a part of it.

    Returns:
        What differs, its value in `current`, and that in `card`.
    """
    card, current = _flat(card), _flat(current)
    for key, value in current.items():
        if card.get(key, value) == value:
            continue
        if key in LISTS:  # too long to be printed
            return LISTS[key], "the data's", "others"
        return NAMES.get(key, key if "." in key else f"model.{key}"), value, card[key]
    return None


def _flat(card):
    """A card with the parts of its preprocessing and augmentation behind the other entries."""
    parts = {f"preprocessing.{k}": v for k, v in _plain(card.get("preprocessing") or {}).items()}
    plain = {k: v for k, v in card.items() if k not in ("preprocessing", "augmentation")}
    return {**plain, **parts, **(card.get("augmentation") or {})}


def check_same_run(card, current, checkpoint):
    """Raise a UserError where --resume would go on with another run than the checkpoint's."""
    difference = difference_of_runs(card, current)
    if difference:
        name, ours, theirs = difference
        raise UserError(
            f"--resume: {name}={ours}, but {checkpoint} belongs to a run with {theirs}: set it back, or "
            "start a new run from finetune.path in another train.output_dir"
        )
