"""Train, finetune or evaluate: bash tools/train.sh projects/MAE/train_net.py CONFIG [N] ..."""
import ctypes
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
    # Linux tells nothing of a launcher that has died before it was asked. tools/train.sh gives its
    # number; LiBai's launcher gives none.
    launcher = os.environ.get("MAE_LAUNCHER")
    if launcher is not None and not descends_from(int(launcher)):
        os.kill(os.getpid(), number)


def descends_from(process):
    """Whether a process is this one's parent, or further up: an interpreter may be a wrapper."""
    number = os.getppid()
    while number > 1 and number != process:
        try:
            with open(f"/proc/{number}/stat") as file:
                number = int(file.read().rpartition(")")[2].split()[1])
        except (FileNotFoundError, ProcessLookupError):
            return False  # it has ended meanwhile, and those below are another's now
    return number == process


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
    from projects.MAE.preparation import prepare

    cfg = prepare(args)
    if args.eval_only:
        from projects.MAE.weights_evaluation import evaluate_only

        evaluate_only(cfg)
    elif args.knn:
        from projects.MAE.weights_evaluation import probe_neighbours

        probe_neighbours(cfg)
    else:
        trainer_of(cfg)(cfg).train()


def run(argv):
    """`main`, with every exception told in the way that is its own; returns the exit status."""
    from projects.MAE.errors import UserError, printable, report
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
            print(f"error: {printable(str(error))}", file=sys.stderr, flush=True)
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
