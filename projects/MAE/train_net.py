"""Train, finetune or evaluate: bash tools/train.sh projects/MAE/train_net.py CONFIG [N] ..."""
import ctypes
import os
import signal
import socket
import sys
import time
import traceback

# LiBai's own tools/train.sh puts the folder of this file on the path, not the repository's root.
sys.path.insert(0, os.path.abspath(os.path.join(os.path.dirname(__file__), "../..")))

FAILED = signal.SIGUSR2  # to tools/train.sh: end all ranks
LAUNCHER_SECONDS = 10  # until this rank ends by itself; the launcher looks ten times a second
_teller = None  # the socket whose name says that this rank has told of an error


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

    try:
        release_semaphores()
        sys.stdout.flush()
        sys.stderr.flush()
    finally:
        os._exit(status)


def leave_with_all(status):
    """`leave` after an error of this rank's own, of which the others may know nothing.

    tools/train.sh is asked to end all ranks together, this one among them: OneFlow aborts those that
    find another gone, with a stack trace below the line that says what happened.
    """
    from projects.MAE.data.workers import release_semaphores

    launcher = os.environ.get("MAE_LAUNCHER")
    try:
        if launcher is not None:
            release_semaphores()
            os.kill(int(launcher), FAILED)
            time.sleep(LAUNCHER_SECONDS)
    except ProcessLookupError:
        pass  # it has ended, and with it the others
    finally:
        leave(status)


def may_tell():
    """Whether this rank is the first on this machine to tell of an error.

    Ranks that share samples meet the same one at once. The name that the first takes is free again
    when its process has ended.
    """
    launcher = os.environ.get("MAE_LAUNCHER")
    if launcher is None:
        return True
    global _teller
    _teller = socket.socket(socket.AF_UNIX)
    try:
        # An abstract name of Linux, no file. Containers may share the network and count processes alone.
        _teller.bind(f"\0mae-{launcher}-{os.environ.get('MASTER_PORT')}-told")
    except OSError:
        return False
    return True


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
    from projects.MAE.engine.trainer import MAETrainer
    from projects.MAE.runtime.lazy_call import kind_of_model

    if kind_of_model(cfg) != "LinearProbe":
        return MAETrainer
    from projects.MAE.engine.probe import ProbeTrainer

    return ProbeTrainer


def main(argv):
    args = parse_arguments(argv)
    from projects.MAE.engine.setup import prepare

    cfg = prepare(args)
    if args.eval_only:
        from projects.MAE.engine.evaluate_weights import evaluate_only

        evaluate_only(cfg)
    elif args.knn:
        from projects.MAE.engine.evaluate_weights import probe_neighbours

        probe_neighbours(cfg)
    else:
        trainer_of(cfg)(cfg).train()


def tell(error):
    """Print what ended the run in the way that is its own, on the rank that is to say so.

    Returns:
        The exit status, and whether the error may be this rank's own.
    """
    from projects.MAE.errors import UserError, printable, report

    first = int(os.environ.get("RANK", 0)) < 1  # OneFlow sets -1 without a launcher
    if isinstance(error, SystemExit) and not isinstance(error.code, str):
        return error.code or 0, bool(error.code)
    is_everyones = getattr(error, "told", False)
    is_own = first or getattr(error, "local", True)
    if isinstance(error, FloatingPointError):  # every rank's, see StepWatch
        is_everyones, is_own = True, first
    if is_own and may_tell():
        if isinstance(error, UserError):
            # Every rank finds the same mistake in a configuration: one of them says so.
            report(error)
        elif isinstance(error, (FloatingPointError, SystemExit)):
            print(f"error: {printable(str(error))}", file=sys.stderr, flush=True)
        else:
            traceback.print_exception(type(error), error, error.__traceback__)
    if is_everyones:
        from projects.MAE.runtime.ranks import leave_late

        leave_late()
    return 1, is_own


def run(argv):
    """`main`; an exception is told, and ends this process.

    It ends inside the except clause. Symptom outside of it, on several ranks: with the exception goes
    its traceback, with that the trainer and its graph, whose destructor waits for the other ranks,
    and those wait for this one: the run hangs for ever.
    """
    from projects.MAE.runtime.rendezvous import meet

    try:
        meet()
        main(argv)
    except BaseException as error:
        status, is_own = 1, True
        try:
            status, is_own = tell(error)
        finally:  # where nobody reads what is told, too
            (leave_with_all if is_own else leave)(status)


if __name__ == "__main__":
    from projects.MAE.utils.signals import end_at_once, signal_of_launchers_end

    end_with_parent(signal_of_launchers_end())
    end_at_once()
    from projects.MAE.runtime.stderr_filter import hide_known_noise

    hide_known_noise()
    run(sys.argv[1:])
