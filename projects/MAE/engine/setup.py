"""From a command line to a run that can begin: its configuration, devices, ranks and log."""
import os

import oneflow as flow
from libai.config import LazyConfig
from libai.utils import distributed as dist

from projects.MAE.checkpoint.card import run_card
from projects.MAE.checkpoint.names import iteration_of
from projects.MAE.checkpoint.output_folder import open_output_folder
from projects.MAE.errors import UserError
from projects.MAE.evaluation.knn import check_knn
from projects.MAE.monitor.log import start_log
from projects.MAE.parallel.layout import check_layout, check_rdma, check_zero, set_batch_sizes
from projects.MAE.runtime import native
from projects.MAE.runtime.compat import (
    compute_on_one_thread,
    hide_user_errors,
    setup_dist_util,
    use_device,
)
from projects.MAE.runtime.device import choose_device
from projects.MAE.runtime.lazy_call import kind_of_model
from projects.MAE.runtime.ranks import check_agreement, only_on_rank_0, together
from projects.MAE.settings.check_together import check_mixup, check_paths, check_settings
from projects.MAE.settings.load import expand_home, load_config
from projects.MAE.utils.disk import check_writable


def configure(args, world_size):
    """Load, check and complete the configuration, without starting anything.

    Returns:
        The configuration and the device, "cuda" or "cpu".

    Raises:
        UserError: the first setting that can be known to be wrong.
    """
    cfg = load_config(args.config_file, args.opts)
    expand_home(cfg)
    cfg.train.resume = args.resume
    if args.fast_dev_run:
        cfg.train.train_epoch, cfg.train.train_iter, cfg.train.log_period = 0, 3, 1
        cfg.train.evaluation.eval_period, cfg.train.evaluation.eval_after_n_epoch = 2, None
        cfg.train.evaluation.eval_iter = 2
        # Beside a run, not over it.
        cfg.train.output_dir = os.path.join(cfg.train.output_dir, "fast_dev_run")
    only_looks = args.eval_only or args.knn
    check_settings(cfg, only_looks, may_be_random=args.knn)
    if args.knn:
        if args.eval_only:
            raise UserError("--knn and --eval-only are two things: give one of them")
        check_knn(cfg)
    check_paths(cfg, train=not args.eval_only, test=only_looks)
    device = choose_device(cfg.train.device)
    check_zero(cfg, device)
    check_rdma(cfg.train.rdma_enabled)
    check_layout(cfg, world_size)
    set_batch_sizes(cfg)
    if not only_looks:
        check_mixup(cfg)
    return cfg, device


def prepare(args):
    """Load, check and complete the configuration; set up devices, ranks and the log."""
    cfg, device = together(lambda: configure(args, dist.get_world_size()))
    check_agreement(
        f"train.device={cfg.train.device}", device, "set train.device=cpu to go without GPUs"
    )
    if cfg.train.rdma_enabled:
        flow.env.init_rdma()
    if device == "cpu":
        instruction_set = together(native.load)
        kernels = "native ones" if instruction_set else "those of OneFlow"
        check_agreement(
            "CPU kernels", kernels, "run tools/setup.sh on every machine, or set MAE_NATIVE=0 on all"
        )
        compute_on_one_thread()
    use_device(device, cfg.train.dist)
    setup_dist_util(cfg.train.dist)

    output_dir = cfg.train.output_dir
    if args.eval_only or args.knn:
        only_on_rank_0(lambda: check_writable("train.output_dir", output_dir))
    else:
        in_graph = cfg.graph.enabled and kind_of_model(cfg) != "LinearProbe"
        needed = ["graph" if in_graph else "optimizer", "lr_scheduler"]
        name = open_output_folder(
            output_dir, args.resume, run_card(cfg), needed, dry_run=args.fast_dev_run
        )
        cfg.train.start_iter = iteration_of(name) if name else 0
    hide_user_errors()
    logger = together(lambda: start_log(output_dir, dist.get_rank()))
    util = dist.get_dist_util()
    logger.info(
        f"{dist.get_world_size()} {device} ranks: data {util.data_parallel_size} x tensor "
        f"{util.tensor_parallel_size} x pipeline {util.pipeline_parallel_size}; "
        f"{os.environ.get('OMP_NUM_THREADS', 'all')} threads a rank"
    )
    if device == "cpu":
        kernels = f"native, {instruction_set}" if instruction_set else "of OneFlow"
        logger.info(f"CPU kernels: {kernels}; matrix products: {native.matrix_products()}")
    if util.pipeline_parallel_size > 1:
        logger.info(f"Stage of each block: {list(cfg.train.dist.custom_pipeline_stage_id)}")
    if device == "cpu" and cfg.train.amp.enabled:
        logger.info("train.amp.enabled: mixed precision is off, OneFlow has none on a CPU")
        cfg.train.amp.enabled = False
    if not cfg.graph.enabled and cfg.train.amp.enabled:
        logger.info("train.amp.enabled: mixed precision is off, eager mode has none")
        cfg.train.amp.enabled = False
    if device == "cpu" and cfg.train.activation_checkpoint.enabled:
        logger.warning(
            "train.activation_checkpoint.enabled: it saves no memory on a CPU, where a graph of "
            "OneFlow reuses none; graph.enabled=False does"
        )
    if dist.is_main_process():
        # An evaluation may write into the folder of the run that it evaluates.
        name = "evaluation.yaml" if args.eval_only else "knn.yaml" if args.knn else "config.yaml"
        LazyConfig.save(cfg, os.path.join(output_dir, name))
    flow.manual_seed(cfg.train.seed)
    return cfg
