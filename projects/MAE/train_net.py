"""Train, finetune or evaluate: bash tools/train.sh projects/MAE/train_net.py CONFIG [N] ..."""
import ctypes
import logging
import os
import signal
import sys

# LiBai's own tools/train.sh puts the folder of this file on the path, not the repository's root.
sys.path.insert(0, os.path.abspath(os.path.join(os.path.dirname(__file__), "../..")))


def end_with_parent():
    """Ask Linux to stop this process when its launcher dies, so that none is left over."""
    PR_SET_PDEATHSIG = 1
    ctypes.CDLL(None, use_errno=True).prctl(PR_SET_PDEATHSIG, signal.SIGKILL)


def wait_for_rank_0():
    """Return once rank 0 listens, or after a minute.

    A rank of OneFlow that starts before rank 0 listens tries again only ten seconds later.
    """
    import socket
    import time

    if int(os.environ.get("RANK", 0)) == 0:
        return
    address = os.environ["MASTER_ADDR"], int(os.environ["MASTER_PORT"])
    for _ in range(600):
        try:
            socket.create_connection(address, timeout=1).close()
            return
        except OSError:
            time.sleep(0.1)


def parse_arguments(argv):
    """LiBai's command line; options may also stand after key=value overrides."""
    from libai.config import default_argument_parser

    overrides = [a for a in argv if "=" in a and not a.startswith("-")]
    options = [a for a in argv if a not in overrides]
    return default_argument_parser().parse_args(options + overrides)


def choose_device(name):
    """"auto", "cuda" or "cpu" -> "cuda" or "cpu".

    Raises:
        UserError: another name, or CUDA where there is none that this OneFlow can use.
    """
    import oneflow as flow

    from projects.MAE.errors import UserError

    if name not in ("auto", "cuda", "cpu"):
        raise UserError(f"train.device={name} must be auto, cuda or cpu")
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


def prepare(args):
    """Load, check and complete the configuration; set up devices, ranks and the log."""
    import oneflow as flow
    from libai.config import LazyConfig
    from libai.utils import distributed as dist
    from libai.utils.logger import setup_logger

    from projects.MAE.utils.compat import hide_user_errors, use_device
    from projects.MAE.utils.config import load_config
    from projects.MAE.utils.layout import set_batch_sizes, set_layout
    from projects.MAE.utils.settings import check_settings

    cfg = load_config(args.config_file, args.opts)
    cfg.train.resume = args.resume
    if args.fast_dev_run:
        cfg.train.train_epoch, cfg.train.train_iter, cfg.train.log_period = 0, 3, 1
        cfg.train.evaluation.eval_period, cfg.train.evaluation.eval_after_n_epoch = 2, None
    check_settings(cfg, args.eval_only)
    device = choose_device(cfg.train.device)
    use_device(device, cfg.train.dist)
    set_layout(cfg, dist.get_world_size())
    set_batch_sizes(cfg)

    output_dir = cfg.train.output_dir
    if dist.is_main_process():
        os.makedirs(output_dir, exist_ok=True)
    dist.synchronize()
    hide_user_errors()
    logger = setup_logger(output_dir, dist.get_rank(), color=sys.stdout.isatty())
    util = dist.get_dist_util()
    logger.info(
        f"{dist.get_world_size()} {device} ranks: data {util.data_parallel_size} x tensor "
        f"{util.tensor_parallel_size} x pipeline {util.pipeline_parallel_size}; "
        f"{os.environ.get('OMP_NUM_THREADS', 'all')} threads a rank"
    )
    if device == "cpu" and cfg.train.amp.enabled:
        logger.info("train.amp.enabled: mixed precision is off, OneFlow has none on a CPU")
        cfg.train.amp.enabled = False
    if dist.is_main_process():
        LazyConfig.save(cfg, os.path.join(output_dir, "config.yaml"))
    flow.manual_seed(cfg.train.seed)
    return cfg


def evaluate_only(cfg):
    """Evaluate the weights of --resume, train.load_weight or finetune.path."""
    from projects.MAE.errors import UserError
    from projects.MAE.trainer import MAETrainer, log_report
    from projects.MAE.utils.checkpoint import check_card, load_weights
    from projects.MAE.utils.libai_folder import find_checkpoint, read_card, read_weights
    from projects.MAE.utils.pretrained import load_pretrained

    cfg.train.evaluation.enabled = True
    own = cfg.train.output_dir if cfg.train.resume else cfg.train.load_weight
    pretrained = "finetune" in cfg and cfg.finetune.enable
    if not own and not pretrained:
        raise UserError(
            "--eval-only needs weights: --resume, train.load_weight=CHECKPOINT or finetune.path=..."
        )
    is_libai = own or cfg.finetune.weight_style == "oneflow"
    source = find_checkpoint(own or cfg.finetune.path) if is_libai else cfg.finetune.path
    loaders = MAETrainer.build_test_loader(cfg)
    model = MAETrainer.build_model(cfg)
    if own:
        load_weights(model, read_weights(source), source)
    else:
        report = load_pretrained(model, cfg.finetune.path, cfg.finetune.weight_style)
        log_report(report, source)
        if report["new"]:
            raise UserError(
                f"finetune.path={source}: it does not give {', '.join(report['new'])}: --eval-only "
                "needs the weights of a whole model, with the classes and the pooling of model"
            )
    if is_libai:
        check_card(read_card(source), loaders[0].dataset, source)
    logging.getLogger("libai.train_net").info(f"Evaluating {source}")
    graph = MAETrainer.build_graph(cfg, model, is_train=False) if cfg.graph.enabled else model
    return MAETrainer.test(cfg, loaders, graph)


def main(argv):
    args = parse_arguments(argv)
    cfg = prepare(args)
    if args.eval_only:
        results = evaluate_only(cfg)
        from libai.utils import distributed as dist

        if dist.is_main_process():
            import json

            with open(os.path.join(cfg.train.output_dir, "evaluation.json"), "w") as file:
                json.dump(results, file)
        return
    from projects.MAE.trainer import MAETrainer

    MAETrainer(cfg).train()


if __name__ == "__main__":
    end_with_parent()
    wait_for_rank_0()
    from projects.MAE.errors import UserError

    try:
        main(sys.argv[1:])
    except UserError as error:
        if int(os.environ.get("RANK", 0)) == 0 or error.local:
            print(f"error: {error}", file=sys.stderr, flush=True)
        from projects.MAE.data.workers import release_semaphores

        release_semaphores()
        # Python's exit would wait for the other ranks, which may not know of the mistake.
        os._exit(1)
    except KeyboardInterrupt:
        os._exit(130)
