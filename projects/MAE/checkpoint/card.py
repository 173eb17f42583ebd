"""What a checkpoint says of the model and the run that it belongs to: its model card."""
from omegaconf import OmegaConf

from projects.MAE.data.datasets import place_of
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
}
LISTS = {"classes": "class folders", "image_list": "names of the training images"}


def run_card(run):
    """What a checkpoint says of its model and `Run` without the data: kind, sizes, optimizer, batch
    and seed."""
    cfg = run.cfg
    sizes = {k: v for k, v in cfg.model.items() if isinstance(v, (int, float, bool, str))}
    return {
        "model": class_name(cfg.model),
        **sizes,
        "global_batch_size": run.batch.total,
        "seed": cfg.train.seed,
        "optimizer": class_name(cfg.optim),
    }


def model_card(run, dataset):
    """`run_card`, with what is known of the data: the number of training images, a checksum of their
    list, the names of their classes, and how evaluation prepares images."""
    card = {**run_card(run), "images": len(dataset), "classes": list(dataset.classes)}
    if hasattr(dataset, "images"):  # a data set of the user's own may have no files
        card["image_list"] = dataset.images.checksum
    steps = OmegaConf.select(run.cfg, "dataloader.test.0.dataset.transform.transforms") or []
    preprocessing = described_preprocessing([dict(step) for step in steps])
    if preprocessing:
        card["preprocessing"] = preprocessing._asdict()
    return card


def check_card(card, dataset, checkpoint):
    """Raise a UserError where a classifier's labels mean other classes than the data's do."""
    if card.get("classes") and "num_classes" in card and card["classes"] != list(dataset.classes):
        differing = sorted(set(card["classes"]) ^ set(dataset.classes))
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
    for key, value in current.items():
        # Preprocessing is that of evaluation and of other programs.
        if key == "preprocessing" or card.get(key, value) == value:
            continue
        if key in LISTS:  # too long to be printed
            return LISTS[key], "the data's", "others"
        return NAMES.get(key, f"model.{key}"), value, card[key]
    return None


def check_same_run(card, current, checkpoint):
    """Raise a UserError where --resume would go on with another run than the checkpoint's."""
    difference = difference_of_runs(card, current)
    if difference:
        name, ours, theirs = difference
        raise UserError(
            f"--resume: {name}={ours}, but {checkpoint} belongs to a run with {theirs}: set it back, or "
            "start a new run from finetune.path in another train.output_dir"
        )
