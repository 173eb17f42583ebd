"""Makes this process, started without a launcher, a world of one rank."""
import os
import signal
import sys
import tempfile

from projects.MAE.errors import INTERRUPTED, UserError
from projects.MAE.runtime.blas import asks_for_mkl
from projects.MAE.runtime.cpu_environment import cpu_environment
from projects.MAE.runtime.quick_import import no_garbage_collection
from projects.MAE.runtime.stderr_filter import known_noise

COMMANDS = "projects.MAE."
LAUNCHER = ("MASTER_ADDR", "MASTER_PORT", "WORLD_SIZE", "RANK", "LOCAL_RANK")


def start_one_process(device="auto", seed=0):
    """Set OneFlow and LiBai up for one rank, in a command or in somebody's program.

    A command, `python -m projects.MAE.X`, is started anew with MKL where that is installed, so call
    this before any work: see `restart_with_mkl`. Ctrl-C ends it at once from here on.

    Args:
        device: "auto", "cpu" or "cuda".
        seed: of OneFlow's generators.

    Returns:
        "cpu" or "cuda", where modules will be placed.
    """
    if device != "cuda":
        restart_with_mkl()
    if "oneflow" not in sys.modules:
        for name in LAUNCHER:  # of a job that this process is only a part of
            os.environ.pop(name, None)
    flow = import_oneflow()
    end_at_interrupt()
    from libai.utils import distributed as dist

    from projects.MAE.runtime import native
    from projects.MAE.runtime.compat import set_up_ranks
    from projects.MAE.runtime.device import choose_device

    if dist.get_world_size() > 1:
        raise UserError("this process is one of several ranks: start it without a launcher")
    device = choose_device(device, "device")
    native.load(device)
    set_up_ranks(device)
    flow.manual_seed(seed)
    return device


def restart_with_mkl():
    """Start a command of this project anew, in the same process, with MKL preloaded.

    Only a library that is there when the process starts can take the place of OneFlow's own BLAS:
    see `cpu_environment`. tools/train.sh does the same for training. Other programs are left alone.
    """
    if not _is_command() or asks_for_mkl():
        return
    variables = cpu_environment(len(os.sched_getaffinity(0)))
    if "LD_PRELOAD" not in variables:
        return
    # As it was started, `python -u -m ...`; before Python 3.10 without Python's own options.
    plain = [sys.executable, "-m", sys.modules["__main__"].__spec__.name, *sys.argv[1:]]
    arguments = getattr(sys, "orig_argv", plain)[1:]
    sys.stdout.flush()
    sys.stderr.flush()
    os.execve(sys.executable, [sys.executable, *arguments], {**os.environ, **variables})


def end_at_interrupt():
    """Let Ctrl-C end a command of this project at once, with status 130 and without clean-up.

    Symptom without it: importing OneFlow 0.9 takes SIGINT away from Python, and its own handler
    ends the process under its threads, with SIGSEGV or with status 255. What a command writes has
    another name until it is whole, so nothing half-written is left under the target's.
    """
    if _is_command():
        signal.signal(signal.SIGINT, lambda *unused: os._exit(INTERRUPTED))


def _is_command():
    """Whether this process is `python -m projects.MAE.X`, not somebody's program or a test."""
    spec = getattr(sys.modules["__main__"], "__spec__", None)
    return spec is not None and spec.name.startswith(COMMANDS)


def import_oneflow():
    """Import OneFlow without the known noise; everything else it says is passed on."""
    if "oneflow" in sys.modules:
        return sys.modules["oneflow"]
    sys.stderr.flush()
    stderr = os.dup(2)
    with tempfile.TemporaryFile() as said:
        os.dup2(said.fileno(), 2)
        try:
            with no_garbage_collection():
                import oneflow
        finally:
            os.dup2(stderr, 2)
            os.close(stderr)
            said.seek(0)
            noise = known_noise()
            for line in said:
                if not noise.fullmatch(line.rstrip(b"\n")):
                    os.write(2, line)
    return oneflow
