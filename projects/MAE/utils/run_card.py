"""What a checkpoint says of the model and the run that it belongs to: its model card."""
from omegaconf import OmegaConf

from projects.MAE.data.preprocessing import described_preprocessing
from projects.MAE.utils.config import class_name, kind_of_model


def run_card(cfg):
    """What a checkpoint says of its model and run without the data: kind, sizes, optimizer, batch
    and seed."""
    sizes = {k: v for k, v in cfg.model.items() if isinstance(v, (int, float, bool, str))}
    run = {"global_batch_size": cfg.train.global_batch_size, "seed": cfg.train.seed}
    run["optimizer"] = class_name(cfg.optim)
    return {"model": kind_of_model(cfg), **sizes, **run}


def model_card(cfg, dataset):
    """`run_card`, with what is known of the data: the number of training images, a checksum of their
    list, the names of their classes, and how evaluation prepares images."""
    card = {**run_card(cfg), "images": len(dataset), "classes": list(dataset.classes)}
    if hasattr(dataset, "images"):  # a data set of the user's own may have no files
        card["image_list"] = dataset.images.checksum
    steps = OmegaConf.select(cfg, "dataloader.test.0.dataset.transform.transforms") or []
    preprocessing = described_preprocessing([dict(step) for step in steps])
    if preprocessing:
        card["preprocessing"] = preprocessing._asdict()
    return card
