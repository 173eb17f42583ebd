"""What a checkpoint says of the model and the run that it belongs to: its model card."""
from omegaconf import ListConfig, OmegaConf

from projects.MAE.data.datasets import classes_of, files_of, place_of
from projects.MAE.data.preprocessing import described_preprocessing
from projects.MAE.errors import UserError
from projects.MAE.runtime.lazy_call import class_name

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
    "preprocessing.crop": "model.img_size",
}
LISTS = {"classes": "class folders", "image_list": "names of the training images"}


def run_card(run):
    """What a checkpoint says of its model and `Run` without the data: kind, sizes, optimizer, batch,
    seed, and how images are prepared."""
    cfg = run.cfg
    sizes = {k: v for k, v in cfg.model.items() if isinstance(v, (int, float, bool, str))}
    return {
        **_images_as_prepared(cfg),
        "model": class_name(cfg.model),
        **sizes,
        "global_batch_size": run.batch.total,
        "seed": cfg.train.seed,
        "optimizer": class_name(cfg.optim),
    }


def _images_as_prepared(cfg):
    """How files become pixels, and pixels the model's input in an evaluation; mean and std alone where
    that is no usual one."""
    data = cfg.get("data", {})
    told = {"exif": data.exif, "bits": data.get("bits") or 16} if "exif" in data else {}
    steps = OmegaConf.select(cfg, "dataloader.test.0.dataset.transform.transforms") or []
    found = described_preprocessing([dict(step) for step in steps])
    if found:
        return {**told, "preprocessing": _plain(found._asdict())}
    if "mean" in data and "std" in data:
        told["preprocessing"] = {"mean": list(data.mean), "std": list(data.std)}
    return told


def _plain(values):
    """As JSON has them."""
    return {k: list(v) if isinstance(v, (tuple, ListConfig)) else v for k, v in values.items()}


def model_card(run, dataset):
    """`run_card`, with what is known of the data: the number of training images, a checksum of their
    list, the names of their classes."""
    card = {**run_card(run), "images": len(dataset), "classes": classes_of(dataset)}
    if files_of(dataset):
        card["image_list"] = files_of(dataset).checksum
    return card


def check_card(card, dataset, checkpoint):
    """Raise a UserError where a classifier's labels mean other classes than the data's do."""
    if card.get("classes") and "num_classes" in card and card["classes"] != classes_of(dataset):
        differing = sorted(set(card["classes"]) ^ set(classes_of(dataset)))
        raise UserError(
            f"it was trained on the classes {', '.join(card['classes'][:3])}, ... "
            f"({len(card['classes'])}), but {place_of(dataset)} has other class folders "
            f"({', '.join(differing[:3])}): evaluate on the same class folders",
            path=checkpoint,
        )


def check_heads(card, model_cfg, checkpoint):
    """Raise a UserError where a model differs from its weights in what no tensor's shape shows."""
    for key in ("num_heads", "decoder_num_heads", "global_pool"):
        if key in card and key in model_cfg and card[key] != model_cfg[key]:
            raise UserError(
                f"model.{key}={model_cfg[key]}, but {checkpoint} was trained with {card[key]}: set "
                f"model.{key}={card[key]}"
            )


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
        return NAMES.get(key, f"model.{key}"), value, card[key]
    return None


def _flat(card):
    """A card with the parts of its preprocessing beside the other entries."""
    parts = {f"preprocessing.{k}": v for k, v in _plain(card.get("preprocessing") or {}).items()}
    return {**{k: v for k, v in card.items() if k != "preprocessing"}, **parts}


def check_same_run(card, current, checkpoint):
    """Raise a UserError where --resume would go on with another run than the checkpoint's."""
    difference = difference_of_runs(card, current)
    if difference:
        name, ours, theirs = difference
        raise UserError(
            f"--resume: {name}={ours}, but {checkpoint} belongs to a run with {theirs}: set it back, or "
            "start a new run from finetune.path in another train.output_dir"
        )
