"""From a command line to a `Run` that can begin: its configuration, devices, ranks and log."""
import dataclasses
import logging
import os

import oneflow as flow
from libai.utils import distributed as dist
from omegaconf import OmegaConf

from projects.MAE.checkpoint.card import run_card
from projects.MAE.checkpoint.names import iteration_of
from projects.MAE.checkpoint.output_folder import open_output_folder
from projects.MAE.checkpoint.run_folder import check_entries
from projects.MAE.data.build import whole_dataset
from projects.MAE.engine.probe import ProbeTrainer
from projects.MAE.engine.trainer import MAETrainer
from projects.MAE.errors import UserError, about
from projects.MAE.evaluation.knn import check_knn
from projects.MAE.modeling.task import task_of
from projects.MAE.monitor.log import start_log
from projects.MAE.parallel.layout import batch_of, check_rdma, check_zero, layout_of
from projects.MAE.runtime import native
from projects.MAE.runtime.compat import compute_on_one_thread, hide_user_errors, set_up_ranks
from projects.MAE.runtime.device import choose_device
from projects.MAE.runtime.lazy_call import instantiate
from projects.MAE.runtime.ranks import check_agreement, only_on_rank_0, together
from projects.MAE.runtime.versions import save_environment
from projects.MAE.runtime.watchdog import TIMEOUT, watch
from projects.MAE.settings.check_each import check_each, unread
from projects.MAE.settings.check_together import (
    check_mixup,
    check_paths,
    check_settings,
    take_from_weights,
)
from projects.MAE.settings.load import expand_home, load_config, save_config
from projects.MAE.settings.run import Run, schedule_of
from projects.MAE.utils.disk import check_writable, refusals
from projects.MAE.utils.signals import end_at_once

logger = logging.getLogger("libai." + __name__)


def configure(args, world_size):
    """The `Run` of a command line, as far as it is known without data and output folder.

    Nothing is started. A UserError names the first setting that can be known to be wrong.
    """
    said = []
    cfg = load_config(args.config_file, args.opts, said)
    expand_home(cfg)
    if args.fast_dev_run:
        cfg.train.train_epoch, cfg.train.train_iter, cfg.train.log_period = 0, 3, 1
        cfg.train.evaluation.eval_period, cfg.train.evaluation.eval_after_n_epoch = 2, None
        cfg.train.evaluation.eval_iter = 2
        # Beside a run, not over it.
        cfg.train.output_dir = os.path.join(cfg.train.output_dir, "fast_dev_run")
    only_looks = args.eval_only or args.knn
    if only_looks:
        cfg.train.evaluation.enabled = True
    check_each(cfg)
    said += unread(cfg)
    said += take_from_weights(cfg, only_looks, args.resume)
    check_settings(cfg, only_looks, may_be_random=args.knn, resumes=args.resume)
    if args.knn:
        if args.eval_only:
            raise UserError("--knn and --eval-only are two things: give one of them")
        check_knn(cfg)
    check_paths(cfg, train=not args.eval_only, test=only_looks)
    device = choose_device(cfg.train.device)
    check_zero(cfg, device)
    check_rdma(cfg.train.rdma_enabled)
    layout = layout_of(cfg, world_size)
    batch = batch_of(cfg.train, layout.data)
    if not only_looks:
        check_mixup(cfg, batch)
    OmegaConf.set_readonly(cfg, True)
    half_precision = cfg.train.amp.enabled and cfg.graph.enabled and device != "cpu"
    task, said = task_of(cfg.model), tuple(said)
    return Run(cfg, task, device, layout, batch, half_precision, args.resume, said=said)


def prepare(args):
    """The `Run` of a command line, with devices, ranks and the log set up.

    Args:
        args: what `train_net.parse_arguments` gives.
    """
    end_at_once()
    watch(state="started")
    run = together(lambda: configure(args, dist.get_world_size()))
    watch(run.cfg.train.get("timeout_seconds", TIMEOUT), "started")
    _start_device(run)
    with about("train.output_dir", run.cfg.train.output_dir):
        run = _open_output_folder(run, args)
    hide_user_errors()
    _say(run)
    flow.manual_seed(run.cfg.train.seed)
    return run


def _open_output_folder(run, args):
    """Begin the log and write the configuration down; the run, with where it goes on."""
    folder = run.cfg.train.output_dir
    only_on_rank_0(lambda: check_entries(folder))
    if args.eval_only or args.knn:
        only_on_rank_0(lambda: check_writable(folder))
    else:
        needed = ["graph" if run.in_graph else "optimizer", "lr_scheduler"]
        card = run_card(run)
        name = open_output_folder(folder, args.resume, card, needed, dry_run=args.fast_dev_run)
        run = dataclasses.replace(run, start_iter=iteration_of(name) if name else 0)
    together(lambda: start_log(folder, dist.get_rank()))
    # An evaluation may write into the folder of the run that it evaluates.
    name = "evaluation.yaml" if args.eval_only else "knn.yaml" if args.knn else "config.yaml"
    only_on_rank_0(lambda: save_config(run.cfg, os.path.join(folder, name)))
    return run


def _start_device(run):
    """Set up what a rank computes with, the same on all of them."""
    train = run.cfg.train
    check_agreement(
        f"train.device={train.device}", run.device, "set train.device=cpu to go without GPUs"
    )
    if train.rdma_enabled:
        flow.env.init_rdma()
    kernels = together(lambda: native.load(run.device))
    kernels = "native ones" if kernels else "those of OneFlow"
    if run.device == "cpu":
        check_agreement(
            "CPU kernels", kernels, "run tools/setup.sh on every machine, or set MAE_NATIVE=0 on all"
        )
        compute_on_one_thread()
    else:
        check_agreement("CUDA kernels", kernels, "use GPUs of one kind")
    layout = run.layout
    set_up_ranks(run.device, layout.data, layout.tensor, layout.pipeline, layout.stages)


def _say(run):
    """Log what is computed with, and which settings have no effect there."""
    train, layout = run.cfg.train, run.layout
    logger.info(
        f"{dist.get_world_size()} {run.device} ranks: data {layout.data} x tensor {layout.tensor} x "
        f"pipeline {layout.pipeline}; {os.environ.get('OMP_NUM_THREADS', 'all')} threads a rank"
    )
    if run.device == "cpu":
        instruction_set = native.load("cpu")
        kernels = f"native, {instruction_set}" if instruction_set else "of OneFlow"
        logger.info(f"CPU kernels: {kernels}; matrix products: {native.matrix_products()}")
    else:
        logger.info(f"CUDA kernels: {native.load('cuda') or 'of OneFlow'}")
    for line in run.said:
        logger.info(line)
    if layout.pipeline > 1:
        logger.info(f"Stage of each block: {list(layout.stages)}")
    if train.amp.enabled and not run.half_precision:
        why = "OneFlow has none on a CPU" if run.device == "cpu" else "eager mode has none"
        logger.info(f"train.amp.enabled: mixed precision is off, {why}")
    if run.device == "cpu" and train.activation_checkpoint.enabled:
        logger.warning(
            "train.activation_checkpoint.enabled: it saves no memory on a CPU, where a graph of "
            "OneFlow reuses none; graph.enabled=False does"
        )
    if "start_iter" in train:
        logger.warning(
            "this configuration was written by an earlier version, which filled in what it had "
            f"derived: train.train_iter={train.train_iter}, train.global_batch_size="
            f"{train.global_batch_size}, optim.lr={run.cfg.optim.lr} count as if you had set them"
        )


def training_of(run):
    """The trainer of a `Run`: reads the training data, and writes down what follows from it."""
    dataset = whole_dataset(instantiate(run.cfg.dataloader.train.dataset))
    run = dataclasses.replace(run, schedule=schedule_of(run.cfg, run.batch, len(dataset)))
    only_on_rank_0(lambda: describe(run))
    trainer = MAETrainer if run.task.graph_trains else ProbeTrainer
    return trainer(run, dataset)


def describe(run):
    """Write environment.json, with all that config.yaml leaves open."""
    with refusals(run.cfg.train.output_dir):
        save_environment(
            run.cfg.train.output_dir,
            task=run.task.name,
            ranks=dist.get_world_size(),
            machines=dist.get_dist_util().num_nodes,
            device=run.device,
            layout=dataclasses.asdict(run.layout),
            batch=dataclasses.asdict(run.batch),
            half_precision=run.half_precision,
            schedule=dataclasses.asdict(run.schedule),
            start_iter=run.start_iter,
            training_images=run.schedule.samples,
        )
