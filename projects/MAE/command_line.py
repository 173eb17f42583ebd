"""What the commands share: options of one name and meaning, errors of one line, exit statuses.

A command is a module with `run(argv)`, which does the work and raises a `UserError` for a mistake of
the user, and `main = partial(run_command, run)`; as a program it ends with `leave(main())`. Nothing
here loads OneFlow, so that --help and mistakes on the command line are quick.
"""
import argparse
import contextlib
import logging
import os
import sys

from projects.MAE.data.workers import prepare_workers, release_semaphores
from projects.MAE.errors import CLOSED_PIPE, INTERRUPTED, UserError, printable, report
from projects.MAE.runtime.single_process import restart_with_mkl


def _whole_number(least, name):
    def convert(text):
        number = int(text)
        if number < least:
            raise ValueError(text)
        return number

    convert.__name__ = name  # argparse names the type in its errors
    return convert


# Types of options.
positive = _whole_number(1, "whole number above 0")
_not_negative = _whole_number(0, "whole number of at least 0")


def _yes_or_no(text):
    if text not in ("yes", "no"):
        raise ValueError(text)
    return text == "yes"


_yes_or_no.__name__ = "answer, yes or no"


# The options that more than one command has.
SHARED = {
    "--weights": dict(
        metavar="W",
        required=True,
        help="weights in any format: an output folder or checkpoint of training, a .pth or "
        ".safetensors file, a folder of transformers",
    ),
    "--images": dict(metavar="PATH", nargs="+", help="image files, or folders of them"),
    "--out": dict(metavar="FILE", help="the file to write"),
    "--batch-size": dict(
        metavar="N", type=positive, default=64, help="images at a time (default: %(default)s)"
    ),
    "--num-workers": dict(
        metavar="N",
        type=_not_negative,
        default=1,
        help="processes that read images (default: %(default)s)",
    ),
    "--on-error": dict(
        choices=["raise", "skip"],
        default="raise",
        help="about an image that can't be read: end there, or go on without it (default: "
        "%(default)s)",
    ),
    "--exif": dict(
        choices=["apply", "ignore"],
        help="the EXIF rotation of images: turn them upright, or leave them as stored (default: as in "
        "training, else ignore)",
    ),
    "--bits": dict(
        metavar="N",
        type=int,
        choices=range(8, 17),
        help="bits that images of 16 bits use, 8 to 16 (default: as in training, else 16)",
    ),
    "--device": dict(
        choices=["auto", "cpu", "cuda"],
        default="auto",
        help="where to compute; auto takes a GPU if there is a usable one (default: %(default)s)",
    ),
    "--seed": dict(
        metavar="N",
        type=_not_negative,
        default=0,
        help="of everything drawn (default: %(default)s)",
    ),
    "--force": dict(action="store_true", help="replace what is there"),
    "--json": dict(action="store_true", help="print JSON, for another program"),
    "--num-heads": dict(
        metavar="N",
        type=positive,
        help="attention heads, where neither the weights nor their size tell",
    ),
    "--decoder-num-heads": dict(metavar="N", type=positive, help="the same of the decoder"),
    "--ema": dict(
        action="store_true",
        help="take the averaged (EMA) weights that a training file keeps beside the raw ones",
    ),
    "--norm-pix-loss": dict(
        metavar="{yes,no}",
        type=_yes_or_no,
        help="whether the weights were trained on normalised pixels, where they don't say so",
    ),
}
# What a command's options are called where a setting of a run is checked by the same rule.
OPTIONS = {"device": "--device", "model.mask_ratio": "--mask-ratio"}


class CommandParser(argparse.ArgumentParser):
    """The parser of `python -m projects.MAE.NAME`.

    Args:
        name: NAME.
        doc: the module's docstring; paragraphs that are indented, the usage, are left out.
        examples: lines, each a comment or a command that can be run as it stands.

    A mistake on the command line raises a `UserError`.
    """

    def __init__(self, name, doc, examples):
        paragraphs = doc.strip().split("\n\n")
        super().__init__(
            prog=f"python -m projects.MAE.{name}",
            description="\n\n".join(p for p in paragraphs if not p.startswith(" ")),
            epilog=examples,
            formatter_class=argparse.RawDescriptionHelpFormatter,
            allow_abbrev=False,
        )

    def add_shared(self, *options, **changes):
        """Add options of `SHARED`, with other arguments of `add_argument` where given."""
        for option in options:
            self.add_argument(option, **{**SHARED[option], **changes})

    def error(self, message):
        raise UserError(f"{message}; see --help")


def run_command(run, argv=None, options=OPTIONS):
    """Run a command with these arguments, by default those of this process.

    Args:
        options: {key of a setting: the command's option for it}, for errors about it.

    Returns:
        The exit status: 0; 1 after one line on stderr for a `UserError`; 130 after Ctrl-C; 141
        where what reads the output went away.
    """
    try:
        with _warnings_on_stderr():
            run(sys.argv[1:] if argv is None else argv)
        sys.stdout.flush()
    except UserError as error:
        report(error, options)
        return 1
    except KeyboardInterrupt:
        return INTERRUPTED
    except BrokenPipeError:
        # Python flushes once more when it ends, and would complain.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return CLOSED_PIPE
    return 0


@contextlib.contextmanager
def _warnings_on_stderr():
    """Show what the packages warn of, what is assumed of weights say: training has a log for it."""
    handler, logger = logging.StreamHandler(), logging.getLogger("libai")
    handler.setLevel(logging.WARNING)
    handler.setFormatter(logging.Formatter("note: %(message)s"))
    logger.addHandler(handler)
    try:
        yield
    finally:
        logger.removeHandler(handler)


def show(line):
    """Print a line, whatever is named in it: `printable`, and in standard output's encoding."""
    encoding = sys.stdout.encoding or "utf-8"
    print(printable(line).encode(encoding, "backslashreplace").decode(encoding), flush=True)


def leave(status):
    """End the process of a command.

    Where OneFlow was loaded and something is unfinished, its shutdown at the end of Python dies of
    SIGSEGV or aborts: after Ctrl-C, for example.
    """
    if status and "oneflow" in sys.modules:
        end_now(status)
    sys.exit(status)


def end_now(status):
    """End this process without Python's own exit, which would wait for OneFlow's shutdown."""
    try:
        release_semaphores()
        sys.stdout.flush()
        sys.stderr.flush()
    finally:
        os._exit(status)


def prepare_command(num_workers=0):
    """What a command does first: `restart_with_mkl`, then start the server of worker processes."""
    restart_with_mkl()
    if num_workers:
        # Python's tracker of semaphores cleans up after a process that was killed, and says so.
        others = os.environ.get("PYTHONWARNINGS")
        quiet = "ignore:resource_tracker:UserWarning"
        os.environ["PYTHONWARNINGS"] = f"{others},{quiet}" if others else quiet
        prepare_workers()


def check_out(path, force):
    """Raise a UserError unless --out can be written: before the long work, not after it.

    The folder it lies in is made where it is missing.
    """
    if os.path.isdir(path):
        raise UserError(f"--out {path}: is a folder: name a file in it")
    if os.path.lexists(path) and not force:
        raise UserError(f"--out {path}: exists already; --force replaces it")
    folder = os.path.dirname(os.path.abspath(path))
    try:
        os.makedirs(folder, exist_ok=True)
    except OSError as error:
        raise UserError(f"--out {path}: {folder} can't be made: {error.strerror}") from None
    if not os.access(folder, os.W_OK):
        raise UserError(f"--out {path}: {folder} can't be written to: name another folder")
