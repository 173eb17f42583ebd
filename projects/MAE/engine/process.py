"""A rank's process: it ends with its launcher, tells what went wrong, and never waits for its peers.

OneFlow is not imported here: importing it is what starts it.
"""
import ctypes
import errno
import os
import signal
import socket
import sys
import time
import traceback

from projects.MAE.command_line import end_now
from projects.MAE.data.workers import release_semaphores
from projects.MAE.errors import UserError, printable, report, shortage
from projects.MAE.runtime.rendezvous import meet
from projects.MAE.runtime.stderr_filter import hide_known_noise
from projects.MAE.runtime.watchdog import watch
from projects.MAE.utils.signals import end_at_once, signal_of_launchers_end

FAILED = signal.SIGUSR2  # to tools/train.sh: end all ranks
LAUNCHER_SECONDS = 10  # until this rank ends by itself; the launcher looks ten times a second
_spare = []  # open files that are closed to tell of an error, which may be that too many are open
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


def leave_with_all(status):
    """`end_now` after an error of this rank's own, of which the others may know nothing.

    tools/train.sh is asked to end all ranks together, this one among them: OneFlow aborts those that
    find another gone, with a stack trace below the line that says what happened.
    """
    launcher = os.environ.get("MAE_LAUNCHER")
    try:
        if launcher is not None:
            release_semaphores()
            os.kill(int(launcher), FAILED)
            time.sleep(LAUNCHER_SECONDS)
    except ProcessLookupError:
        pass  # it has ended, and with it the others
    finally:
        end_now(status)


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
    except OSError as error:
        return error.errno != errno.EADDRINUSE
    return True


def tell(error):
    """Print what ended the run, on the rank that is to say so.

    Returns:
        The exit status, and whether the error may be this rank's own.
    """
    while _spare:
        os.close(_spare.pop())
    first = int(os.environ.get("RANK", 0)) < 1  # OneFlow sets -1 without a launcher
    if not isinstance(error, (UserError, SystemExit)):
        lacking = shortage(error)
        if lacking is not None:
            lacking.__cause__ = error  # which MAE_TRACEBACK=1 shows
            error = lacking
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


def run_rank(main, argv):
    """Run main(argv) as one of the ranks of a job; an exception is told, and ends this process.

    It ends inside the except clause. Symptom outside of it, on several ranks: with the exception goes
    its traceback, with that the trainer and its graph, whose destructor waits for the other ranks,
    and those wait for this one: the run hangs for ever.
    """
    end_with_parent(signal_of_launchers_end())
    end_at_once()
    hide_known_noise()
    _spare.extend(os.dup(1) for _ in range(4))
    watch(0)  # machines that are waited for are no hang
    try:
        meet()
        watch()
        main(argv)
    except BaseException as error:
        status, is_own = 1, True
        try:
            status, is_own = tell(error)
        finally:  # where nobody reads what is told, too
            (leave_with_all if is_own else end_now)(status)
