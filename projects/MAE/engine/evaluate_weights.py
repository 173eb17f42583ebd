"""What --eval-only and --knn do: measure weights that are there, and keep the figures."""
import logging

from projects.MAE.checkpoint.card import check_card, check_heads
from projects.MAE.checkpoint.checkpointer import load_weights
from projects.MAE.checkpoint.names import find_checkpoint
from projects.MAE.checkpoint.reader import read_card
from projects.MAE.data.build import check_sample
from projects.MAE.data.datasets import classes_of, place_of
from projects.MAE.engine.trainer import build_model, test_loaders
from projects.MAE.errors import UserError
from projects.MAE.evaluation.evaluate import measure
from projects.MAE.evaluation.knn import build_loaders, run_knn
from projects.MAE.evaluation.result_file import EVALUATION, KNN, save_evaluation
from projects.MAE.modeling.graph import evaluator_of
from projects.MAE.report.save import renew_reports
from projects.MAE.runtime.ranks import only_on_rank_0
from projects.MAE.weights.pretrained import load_pretrained, log_report, read_libai

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
        weights, card = read_libai(source, model)
        check_heads(card, cfg.model, source)
        load_weights(model, weights, source)
    elif "finetune" in cfg and cfg.finetune.enable:
        path, style = cfg.finetune.path, cfg.finetune.weight_style
        is_libai = style == "oneflow"
        source = find_checkpoint(path) if is_libai else path
        report = load_pretrained(model, path, style)
        log_report(report, source)
        if report["new"] and not may_be_random:
            raise UserError(
                f"finetune.path={source}: it does not give {', '.join(report['new'])}: --eval-only "
                "needs the weights of a whole model, with the classes and the pooling of model"
            )
        if not is_libai:
            return source, {}
        card = read_card(source)
        check_heads(card, cfg.model, source)
    else:  # without weights only where that was asked for, see check_settings
        return "initial weights", {}
    return source, card


def evaluate_only(run):
    """Evaluate the weights of --resume, train.load_weight or finetune.path; see `keep`."""
    cfg = run.cfg
    loader = test_loaders(cfg)[0]
    model = build_model(cfg)
    source, card = load_for_evaluation(run, model)
    dataset = loader.dataset
    check_card(card, dataset, source)
    check_sample(dataset, cfg.model, run.task.has_labels, trains=False)
    found = len(classes_of(dataset))
    if run.task.has_labels and found != cfg.model.num_classes:
        raise UserError(
            f"model.num_classes={cfg.model.num_classes}, but {place_of(dataset)} has "
            f"{found} class folders: a label is a place in the sorted list of folders, "
            "so the folders of all classes are needed"
        )
    logger.info(f"Evaluating {source}")
    evaluator = evaluator_of(model, cfg.graph.enabled)
    results, images = measure(evaluator, loader, cfg.train.evaluation)
    keep(cfg, EVALUATION, {**results, "images": images}, source, card, dataset)


def probe_neighbours(run):
    """The k-NN probe of the weights that --eval-only takes, or of the initial ones; see `keep`."""
    cfg = run.cfg
    loaders = build_loaders(cfg)
    model = build_model(cfg)
    source, card = load_for_evaluation(run, model, may_be_random=True)
    results = run_knn(cfg, model, loaders, source)
    keep(cfg, KNN, results, source, card, loaders[1].dataset)


def keep(cfg, name, results, source, card, dataset):
    """Write an evaluation's figures into the output folder and into the reports that show it."""

    def write():
        save_evaluation(cfg.train.output_dir, name, results, source, card, place_of(dataset))
        renew_reports(cfg.train.output_dir)

    only_on_rank_0(write)
