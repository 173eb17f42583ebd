"""What --eval-only and --knn do: measure weights that are there, and keep the figures."""
import logging

from omegaconf import OmegaConf

from projects.MAE.checkpoint.card import check_heads, columns_of, differing_aims
from projects.MAE.checkpoint.checkpointer import load_weights
from projects.MAE.checkpoint.names import find_checkpoint
from projects.MAE.checkpoint.reader import read_card
from projects.MAE.data.build import check_sample
from projects.MAE.data.datasets import classes_of, files_of, place_of, prepared
from projects.MAE.data.image_file import told_reading
from projects.MAE.data.preprocessing import both_preprocessings, both_readings
from projects.MAE.engine.trainer import build_model, test_loaders
from projects.MAE.errors import UserError
from projects.MAE.evaluation.evaluate import measure
from projects.MAE.evaluation.knn import build_loaders, run_knn
from projects.MAE.evaluation.result_file import EVALUATION, KNN, save_evaluation
from projects.MAE.modeling.graph import evaluator_of
from projects.MAE.report.save import renew_reports
from projects.MAE.runtime.lazy_call import call
from projects.MAE.runtime.ranks import only_on_rank_0
from projects.MAE.weights.files import check_no_ema
from projects.MAE.weights.pretrained import load_pretrained, log_report, read_libai
from projects.MAE.weights.source import check_one_label, run_facts

logger = logging.getLogger("libai." + __name__)


def load_for_evaluation(run, model, may_be_random=False):
    """Fill a model with the weights of --resume, train.load_weight or finetune.path.

    Args:
        may_be_random: finetune.enable=False leaves the initial weights, and a head may be new.

    Returns:
        What to call the weights, and what is known of their model and classes.
    """
    cfg = run.cfg
    own = cfg.train.output_dir if run.resumes else cfg.train.load_weight
    if own:
        source = find_checkpoint(own)
        check_no_ema(source, "finetune" in cfg and cfg.finetune.get("ema", False))
        weights, card = read_libai(source, model)
        check_heads(card, cfg.model, source)
        load_weights(model, weights, source)
    elif "finetune" in cfg and cfg.finetune.enable:
        path, style = cfg.finetune.path, cfg.finetune.weight_style
        is_libai = style == "oneflow"
        source = find_checkpoint(path) if is_libai else path
        report = load_pretrained(model, path, style, ema=cfg.finetune.get("ema", False))
        log_report(report, source)
        if report["new"] and not may_be_random:
            raise UserError(
                f"it does not give {', '.join(report['new'])}",
                key="finetune.path",
                value=source,
                way_out=_way_out(report, cfg.model),
            )
        if not is_libai:
            check_heads(report["facts"], cfg.model, source)
            return source, report["facts"]
        card = read_card(source)
        check_heads(card, cfg.model, source)
    else:  # without weights only where that was asked for, see check_settings
        return "initial weights", {"exif": OmegaConf.select(cfg, "data.exif")}
    card = {**run_facts(source, cfg.model.get("embed_dim")), **card}
    return source, card


def _way_out(report, model):
    """Which settings of the model make weights whole, after a report of `load_pretrained`."""
    outputs, left, wanted = report["outputs"], report["left"], []
    for norm, pool in (("norm.weight", False), ("fc_norm.weight", True)):
        wanted += [f"model.global_pool={pool}"] if norm in left else []
    wanted += [f"model.num_classes={outputs}"] if outputs != model.num_classes else []
    if not outputs or not wanted or "feature_norm.running_mean" in left:
        needed = "the weights of a whole model, with the classes and the pooling of model"
        return f"--eval-only needs {needed}"
    return f"set {' '.join(wanted)}, as its head has it"


def prepared_for(loader, card, cfg, source):
    """The loader of `dataloader.test` that makes of files what the weights' training did.

    So does predict. Where the configuration's differs, one line says so, and which is used. An image
    size of the configuration's own stays, with the mean, std and filter of the weights.
    """
    told = card.get("preprocessing")
    theirs, ours = both_preprocessings(told, cfg)
    if not told:
        how = ours or "with the transform"
        logger.info(f"{source} does not say how images are prepared: {how} of the configuration")
    for key in ("mean", "std") if told and not theirs and "data" in cfg else ():
        if told.get(key) and list(told[key]) != list(cfg.data[key]):
            logger.warning(f"{source} was trained with {key} {told[key]}: is data.{key} right?")
    by_recipe = cfg.train.evaluation.get("preprocessing") == "recipe"
    reading, our_reading = both_readings(card, cfg) if files_of(loader.dataset) else (None, None)
    pairs = [(f"the preprocessing {theirs}", str(ours or "another"))] if theirs != ours else []
    pairs += [(str(reading), str(our_reading))] if reading != our_reading else []
    if reading and not card.get("exif"):
        assumed = told_reading(cfg.train.evaluation).exif  # told by train.evaluation.exif
        reading = reading._replace(exif=our_reading.exif if by_recipe else assumed)
        untold = f"{source} does not say what was done about EXIF rotations"
        logger.info(f"{untold}: data.exif={reading.exif} is taken; set data.exif to have another")
    if not pairs and reading == our_reading:
        return loader
    if pairs:
        found, has = (", ".join(texts) for texts in zip(*pairs))
        differs = f"{source} was trained with {found}, the configuration has {has}"
        is_fixed = not hasattr(loader.dataset, "evaluated_with")  # a class of the user's own
        if is_fixed or by_recipe:
            logger.warning(f"{differs}: the configuration's is used")
            return loader
        other = "train.evaluation.preprocessing=recipe takes the other"
        logger.warning(f"{differs}: the weights' is used; {other}")
    transform = theirs.transform() if theirs != ours else loader.dataset.transform
    dataset = prepared(loader.dataset, transform, reading)
    return call(
        cfg.dataloader.test[0], test_batch_size=cfg.train.test_micro_batch_size, dataset=dataset
    )


def evaluate_only(run):
    """Evaluate the weights of --resume, train.load_weight or finetune.path; see `keep`."""
    cfg = run.cfg
    loader = test_loaders(cfg)[0]
    model = build_model(cfg)
    source, card = load_for_evaluation(run, model)
    check_one_label(card, source)
    for line in differing_aims(card, cfg.model):
        logger.warning(f"{source} {line}")
    dataset, columns = loader.dataset, None
    check_sample(dataset, cfg.model, run.task.has_labels, trains=False)
    found = len(classes_of(dataset))
    if run.task.has_labels and card.get("classes"):
        subset = cfg.train.evaluation.get("classes") == "subset"
        columns = columns_of(card["classes"], dataset, subset, source, cfg.model.num_classes)
    if columns is not None:
        logger.info(
            f"Classes are compared by name: the {len(columns)} class folders are outputs "
            f"{', '.join(map(str, columns[:10]))}{', ...' * (len(columns) > 10)} of the head"
        )
    elif run.task.has_labels and found != cfg.model.num_classes:
        raise UserError(
            f"model.num_classes={cfg.model.num_classes}, but {place_of(dataset)} has "
            f"{found} class folders: a label is a place in the sorted list of folders, "
            "so the folders of all classes are needed"
        )
    loader = prepared_for(loader, card, cfg, source)
    logger.info(f"Evaluating {source}")
    evaluator = evaluator_of(model, cfg.graph.enabled)
    results, images = measure(evaluator, loader, cfg.train.evaluation, columns=columns)
    keep(cfg, EVALUATION, {**results, "images": images}, source, card, dataset)


def probe_neighbours(run):
    """The k-NN probe of the weights that --eval-only takes, or of the initial ones; see `keep`."""
    cfg = run.cfg
    val_loader = test_loaders(cfg)[0]
    loaders = build_loaders(cfg, val_loader)
    model = build_model(cfg)
    source, card = load_for_evaluation(run, model, may_be_random=True)
    prepared_loader = prepared_for(val_loader, card, cfg, source)
    if prepared_loader is not val_loader:
        loaders = build_loaders(cfg, prepared_loader)
    results = run_knn(cfg, model, loaders, source)
    keep(cfg, KNN, results, source, card, loaders[1].dataset)


def keep(cfg, name, results, source, card, dataset):
    """Write an evaluation's figures into the output folder and into the reports that show it."""

    def write():
        save_evaluation(cfg.train.output_dir, name, results, source, card, place_of(dataset))
        renew_reports(cfg.train.output_dir)

    only_on_rank_0(write)
