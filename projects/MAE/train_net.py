"""Train, finetune or evaluate: bash tools/train.sh projects/MAE/train_net.py CONFIG [N] ..."""
import ctypes
import logging
import os
import signal
import sys
import traceback

# LiBai's own tools/train.sh puts the folder of this file on the path, not the repository's root.
sys.path.insert(0, os.path.abspath(os.path.join(os.path.dirname(__file__), "../..")))


def end_with_parent(number=signal.SIGKILL):
    """Ask Linux for a signal to this process when its launcher dies, so that none is left over."""
    PR_SET_PDEATHSIG = 1
    ctypes.CDLL(None, use_errno=True).prctl(PR_SET_PDEATHSIG, number)


def leave(status):
    """End this process now. Python's own exit would wait for the other ranks in OneFlow's
    shutdown, and they may be waiting for this one in the middle of a step."""
    from projects.MAE.data.workers import release_semaphores

    release_semaphores()
    sys.stdout.flush()
    sys.stderr.flush()
    os._exit(status)


def parse_arguments(argv):
    """LiBai's command line; options may also stand after key=value overrides."""
    from libai.config import default_argument_parser

    parser = default_argument_parser()
    parser.error = _refuse  # argparse would print its usage once a rank and exit with status 2
    parser.add_argument(
        "--knn",
        action="store_true",
        help="classify val/ by the nearest images of train/ in the encoder's features; no training",
    )
    overrides = [a for a in argv if "=" in a and not a.startswith("-")]
    options = [a for a in argv if a not in overrides]
    return parser.parse_args(options + overrides)


def _refuse(message):
    from projects.MAE.errors import UserError

    raise UserError(f"{message}: see bash tools/train.sh --help")


def choose_device(name):
    """"auto", "cuda" or "cpu" -> "cuda" or "cpu".

    Raises:
        UserError: CUDA where there is none that this OneFlow can use.
    """
    import oneflow as flow

    from projects.MAE.errors import UserError

    if name == "cpu" or (name == "auto" and not flow.cuda.is_available()):
        return "cpu"
    if not flow.cuda.is_available():
        raise UserError("train.device=cuda, but there is no usable GPU: use train.device=cpu")
    major, minor = flow.cuda.get_device_capability()
    if not (6, 0) <= (major, minor) < (9, 0):
        raise UserError(
            f"this OneFlow has no code for a GPU of compute capability {major}.{minor} (it has "
            "6.0 to 8.x): use another GPU or train.device=cpu"
        )
    return "cuda"


def configure(args, world_size):
    """Load, check and complete the configuration, without starting anything.

    Returns:
        The configuration and the device, "cuda" or "cpu".

    Raises:
        UserError: the first setting that can be known to be wrong.
    """
    from projects.MAE.errors import UserError
    from projects.MAE.knn import check_knn
    from projects.MAE.utils.config import load_config
    from projects.MAE.utils.layout import check_layout, check_rdma, check_zero, set_batch_sizes
    from projects.MAE.utils.settings import check_mixup, check_paths, check_settings

    cfg = load_config(args.config_file, args.opts)
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
    import oneflow as flow
    from libai.config import LazyConfig
    from libai.utils import distributed as dist

    from projects.MAE.utils import native
    from projects.MAE.utils.agreement import check_agreement, only_on_rank_0, together
    from projects.MAE.utils.checkpoint import open_output_folder
    from projects.MAE.utils.compat import (
        compute_on_one_thread,
        hide_user_errors,
        setup_dist_util,
        use_device,
    )
    from projects.MAE.utils.config import kind_of_model
    from projects.MAE.utils.disk import check_writable
    from projects.MAE.utils.libai_folder import iteration_of
    from projects.MAE.utils.log import start_log
    from projects.MAE.utils.run_card import run_card

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


def load_for_evaluation(cfg, model, may_be_random=False):
    """Fill a model with the weights of --resume, train.load_weight or finetune.path.

    Args:
        may_be_random: finetune.enable=False leaves the initial weights, and a head may be new.

    Returns:
        What to call the weights, and what is known of their model and classes.

    Raises:
        UserError: no weights, or those of another model.
    """
    from projects.MAE.errors import UserError
    from projects.MAE.trainer import log_report
    from projects.MAE.utils.checkpoint import check_heads, load_weights
    from projects.MAE.utils.libai_folder import find_checkpoint, read_card, read_weights
    from projects.MAE.utils.manifest import check_whole
    from projects.MAE.utils.pretrained import load_pretrained

    own = cfg.train.output_dir if cfg.train.resume else cfg.train.load_weight
    if own:
        source = find_checkpoint(own)
        check_whole(source, "model")
        load_weights(model, read_weights(source), source)
    elif "finetune" in cfg and cfg.finetune.enable:
        is_libai = cfg.finetune.weight_style == "oneflow"
        source = find_checkpoint(cfg.finetune.path) if is_libai else cfg.finetune.path
        report = load_pretrained(model, cfg.finetune.path, cfg.finetune.weight_style)
        log_report(report, source)
        if report["new"] and not may_be_random:
            raise UserError(
                f"finetune.path={source}: it does not give {', '.join(report['new'])}: --eval-only "
                "needs the weights of a whole model, with the classes and the pooling of model"
            )
        if not is_libai:
            return source, {}
    elif may_be_random:
        return "initial weights", {}
    else:
        raise UserError(
            "--eval-only needs weights: --resume, train.load_weight=CHECKPOINT or finetune.path=..."
        )
    card = read_card(source)
    check_heads(card, cfg.model, source)
    return source, card


def evaluate_only(cfg):
    """Evaluate the weights of --resume, train.load_weight or finetune.path; see `keep`."""
    from projects.MAE.errors import UserError
    from projects.MAE.trainer import MAETrainer
    from projects.MAE.utils.checkpoint import check_card
    from projects.MAE.utils.evaluation_file import EVALUATION

    cfg.train.evaluation.enabled = True
    loaders = MAETrainer.build_test_loader(cfg)
    model = MAETrainer.build_model(cfg)
    source, card = load_for_evaluation(cfg, model)
    dataset = loaders[0].dataset
    check_card(card, dataset, source)
    if "num_classes" in cfg.model and dataset.num_classes != cfg.model.num_classes:
        raise UserError(
            f"model.num_classes={cfg.model.num_classes}, but {dataset.images.root} has "
            f"{dataset.num_classes} class folders: a label is a place in the sorted list of folders, "
            "so the folders of all classes are needed"
        )
    logging.getLogger("libai.train_net").info(f"Evaluating {source}")
    graph = MAETrainer.build_graph(cfg, model, is_train=False)
    results, images = MAETrainer.measure(cfg, loaders, graph)
    keep(cfg, EVALUATION, {**results, "images": images}, source, card, dataset)


def probe_neighbours(cfg):
    """The k-NN probe of the weights that --eval-only takes, or of the initial ones; see `keep`."""
    from projects.MAE.knn import build_loaders, run_knn
    from projects.MAE.trainer import MAETrainer
    from projects.MAE.utils.evaluation_file import KNN

    loaders = build_loaders(cfg)
    model = MAETrainer.build_model(cfg)
    source, card = load_for_evaluation(cfg, model, may_be_random=True)
    results = run_knn(cfg, model, loaders, MAETrainer.get_batch, source)
    keep(cfg, KNN, results, source, card, loaders[1].dataset)


def keep(cfg, name, results, source, card, dataset):
    """Write an evaluation's figures into the output folder, once, and into the reports that show it.

    Args:
        name: of the file.
        results: the figures, plain numbers.
        source, card: as `load_for_evaluation` gives them.
        dataset: of the images that were evaluated.
    """
    from projects.MAE.report.save import renew_reports
    from projects.MAE.utils.agreement import only_on_rank_0
    from projects.MAE.utils.evaluation_file import save_evaluation

    def write():
        save_evaluation(cfg.train.output_dir, name, results, source, card, dataset.images.root)
        renew_reports(cfg.train.output_dir)

    only_on_rank_0(write)


def trainer_of(cfg):
    """The trainer of a configuration's kind of model."""
    from projects.MAE.trainer import MAETrainer
    from projects.MAE.utils.config import kind_of_model

    if kind_of_model(cfg) != "LinearProbe":
        return MAETrainer
    from projects.MAE.probing import ProbeTrainer

    return ProbeTrainer


def main(argv):
    args = parse_arguments(argv)
    cfg = prepare(args)
    if args.eval_only:
        evaluate_only(cfg)
    elif args.knn:
        probe_neighbours(cfg)
    else:
        trainer_of(cfg)(cfg).train()


def run(argv):
    """`main`, with every exception told in the way that is its own; returns the exit status."""
    from projects.MAE.errors import UserError, report
    from projects.MAE.utils.rendezvous import meet

    try:
        meet()
        main(argv)
        return 0
    except UserError as error:
        # Every rank finds the same mistake in a configuration: one of them says so.
        if int(os.environ.get("RANK", 0)) < 1 or error.local:  # OneFlow sets -1 without a launcher
            report(error)
        if error.told:
            from projects.MAE.utils.agreement import leave_late

            leave_late()
        return 1
    except FloatingPointError as error:  # every rank's, see StepWatch
        from projects.MAE.utils.agreement import leave_late

        if int(os.environ.get("RANK", 0)) < 1:
            print(f"error: {error}", file=sys.stderr, flush=True)
        leave_late()
        return 1
    except Exception:
        traceback.print_exc()
        return 1


if __name__ == "__main__":
    from projects.MAE.interruption import end_at_once, signal_of_launchers_end

    end_with_parent(signal_of_launchers_end())
    end_at_once()
    from projects.MAE.utils.noise import hide_known_noise

    hide_known_noise()
    status = run(sys.argv[1:])
    if status:
        leave(status)
