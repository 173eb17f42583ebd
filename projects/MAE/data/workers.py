"""Worker processes that read batches ahead of the training process.

OneFlow's DataLoader forks the training process, whose BLAS and OneFlow threads may hold locks at
that moment: the fork inherits the locks without the threads, and hangs. So workers come from a
fork server, a process that has never loaded OneFlow. Nothing that a worker imports may load it.
"""
import contextlib
import multiprocessing
import multiprocessing.connection
import multiprocessing.forkserver
import multiprocessing.resource_tracker
import multiprocessing.util
import os
import pickle
import signal
import sys
import threading
import types
from collections import deque
from concurrent.futures import ProcessPoolExecutor
from concurrent.futures.process import BrokenProcessPool

from projects.MAE.errors import UserError, raised_by

BATCHES_AHEAD = 2  # of each worker
RESUME = "start again with --resume, with a smaller num_workers if the memory was full"

_context = multiprocessing.get_context("forkserver")
_read = None  # what this worker process does with a list of keys


def prepare_workers():
    """Start the fork server, once. Called before threads of BLAS exist that a fork would upset."""
    _context.set_forkserver_preload(["projects.MAE.data.collate"])
    # A queue may signal every process of a job, and what follows from that is the training
    # process's decision. The server and its workers inherit what is blocked here. The tracker
    # comes first: starting it would undo the blocking.
    multiprocessing.resource_tracker.ensure_running()
    before = signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGTERM, signal.SIGUSR1})
    multiprocessing.forkserver.ensure_running()
    signal.pthread_sigmask(signal.SIG_SETMASK, before)


def read_ahead(read, batches, num_workers, way_on=RESUME):
    """Yield `read(keys)` for each list of keys in `batches`, in their order.

    Args:
        read: a picklable callable.
        num_workers: processes that read; 0 reads in this one.
        way_on: what to do when a worker died, for the error; by default in training.

    Raises:
        UserError: a worker process died, or `read` raised an exception.
    """
    if num_workers == 0:
        for keys in batches:
            yield _told(read, keys)
        return
    prepare_workers()
    pool = ProcessPoolExecutor(
        num_workers, mp_context=_context, initializer=_start_worker, initargs=(read,)
    )
    pending = deque()
    try:
        for keys in batches:
            pending.append(_submit(pool, keys))
            if len(pending) > BATCHES_AHEAD * num_workers:
                yield _told(pending.popleft().result)
        while pending:
            yield _told(pending.popleft().result)
    except BrokenProcessPool:
        raise UserError(
            "a process that reads images died (was it killed, is the memory full, are too many open "
            f"files, which ulimit -n 4096 allows?): {way_on}",
            local=True,
        ) from None
    finally:
        for future in pending:
            future.cancel()
        pool.shutdown()  # a worker finishes the batch it is reading


def _script_is_guarded():
    """Whether the script that this process runs may be imported without doing all that it does."""
    path = getattr(sys.modules["__main__"], "__file__", None)
    try:
        with open(path or os.devnull, errors="replace") as file:
            return path is None or "__main__" in file.read()
    except OSError:
        return True


@contextlib.contextmanager
def _without_unguarded_script():
    """Start workers that leave an unguarded script alone. Python's own would import it first, and do
    in each worker what it does: train again, start workers of its own."""
    script = sys.modules["__main__"]
    if not _script_is_guarded():
        sys.modules["__main__"] = types.ModuleType("__main__")
    try:
        yield
    finally:
        sys.modules["__main__"] = script


def _submit(pool, keys):
    """Give keys to a worker; the first time what reads them goes to the worker, too."""
    try:
        with _without_unguarded_script():
            return pool.submit(_read_in_worker, keys)
    except (pickle.PicklingError, TypeError, AttributeError) as error:  # whatever can't be pickled
        way_out = "define its class in a module that can be imported, and open files in __getitem__, or "
        way_out += "set num_workers=0"
        if not _script_is_guarded():
            way_out = 'put what the script does under `if __name__ == "__main__":`'
        what = f"the data set can't be sent to worker processes ({error})"
        raise UserError(what, way_out=way_out, local=True) from error


def _told(call, *arguments):
    """call(*arguments); whatever a data set raises is one line, and this rank's alone to say.

    Here in the worker too: some exceptions can't be pickled, and others not unpickled.
    """
    try:
        return call(*arguments)
    except BrokenProcessPool:
        raise
    except UserError as error:
        error.local = True
        raise
    except (Exception, SystemExit) as error:
        raise raised_by("the data set", error) from error


def release_semaphores():
    """End the workers and give back what their pools hold, before an `os._exit` that skips Python's
    own clean-up. Symptom without it: "There appear to be 5 leaked semaphore objects" after an error.
    """
    for worker in multiprocessing.active_children():
        worker.kill()  # it may wait for work for ever, and Python's clean-up for it
    multiprocessing.util._exit_function()


def _start_worker(read):
    global _read
    _read = read
    # Ctrl-C reaches the whole process group; what follows from it is the parent's decision.
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    threading.Thread(target=_end_with_training_process, daemon=True).start()
    sys.excepthook = _hide_lost_connection


def _hide_lost_connection(kind, error, trace):
    """An excepthook for a worker whose training process ends while it takes a batch.

    Symptom without it: the thread that hands over shared memory prints a traceback of its own
    (`resource_sharer.py`, ConnectionResetError or EOFError) below what the user is told.
    """
    if not isinstance(error, (ConnectionError, EOFError)):
        sys.__excepthook__(kind, error, trace)


def _end_with_training_process():
    """End this worker when the training process is gone, however it went: its parent is the fork
    server, which in turn waits for the last worker to end.
    """
    multiprocessing.connection.wait([multiprocessing.parent_process().sentinel])
    os._exit(1)


def _read_in_worker(keys):
    return _told(_read, keys)
