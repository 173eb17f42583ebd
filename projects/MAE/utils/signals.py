"""Signals that ask a run to stop or to save.

Until a run has finished a step nothing can be lost, so SIGTERM, SIGINT and SIGHUP end it at once, as they
end any program, even in the middle of OneFlow's compiler; SIGUSR1 is ignored. From then on a
`Listener` notes what is asked for, and the training loop does it at the end of a step.

tools/train.sh passes signals on and waits for its ranks. OneFlow's launcher, which LiBai's own
tools/train.sh uses, ends as soon as it is signalled: there its end asks the ranks to stop, too.

OneFlow is not imported here: importing it is what starts it.
"""
import os
import signal
import threading
import time

# A batch queue signals the launcher and its ranks at once, so a rank hears it twice.
SAME_REQUEST_SECONDS = 2

STOPPING = (signal.SIGTERM, signal.SIGINT, signal.SIGHUP)
LAUNCHER_ENDED = signal.SIGUSR2  # Linux sends it
# Until then a rank may finish its step and save. One that hangs, because another rank died, is left over
# for as long.
ORPHAN_SECONDS = 300

_started = time.monotonic()


def seconds_since_start():
    """How long this process has been running, but for the imports before this one."""
    return time.monotonic() - _started


def signal_of_launchers_end():
    """What a rank wants to be sent when its launcher ends."""
    # tools/train.sh, which alone sets this, ends before its ranks only where it is killed.
    return signal.SIGKILL if "MAE_COMMAND" in os.environ else LAUNCHER_ENDED


def _stopping():
    """Without SIGHUP below nohup, which ignores it."""
    ignored = signal.getsignal(signal.SIGHUP) == signal.SIG_IGN
    return [number for number in STOPPING if number != signal.SIGHUP or not ignored]


def end_at_once():
    """Let the signals that stop a run end this process without a word, and SIGUSR1 do nothing.

    Called once more when OneFlow is there: its import takes SIGINT for a handler of its own, which
    ends with status 255 or crashes.
    """
    for number in (*_stopping(), LAUNCHER_ENDED):
        signal.signal(number, signal.SIG_DFL)
    signal.signal(signal.SIGUSR1, signal.SIG_IGN)


class Listener:
    """Notes the signals that come; a second one that asks to stop ends the process at once.

    A thread of its own reads them, because the training thread is inside OneFlow for as long as a
    step takes, where Python runs no signal handler.

    Attributes:
        stop: the name of the signal that asked for it, or "the launcher's end"; "" before.
        save: whether SIGUSR1 has come; whoever saves sets it back.
    """

    def __init__(self):
        self.stop, self.save = "", False

    def start(self):
        """Listen from now on; called in the main thread, once."""
        reader, writer = os.pipe()
        os.set_blocking(writer, False)
        signal.set_wakeup_fd(writer, warn_on_full_buffer=False)  # first: none is lost
        for number in (*_stopping(), signal.SIGUSR1, LAUNCHER_ENDED):
            signal.signal(number, lambda *_: None)  # the number still goes to the pipe
        threading.Thread(target=self._listen, args=(reader,), daemon=True).start()

    def _listen(self, reader):
        stopping_since = None
        while True:
            for number in os.read(reader, 16):
                if number == signal.SIGUSR1:
                    self.save = True
                elif number == LAUNCHER_ENDED:
                    self.stop = self.stop or "the launcher's end"
                    timer = threading.Timer(ORPHAN_SECONDS, os._exit, [1])
                    timer.daemon = True  # a rank that has saved ends before
                    timer.start()
                elif number in STOPPING:
                    now = time.monotonic()
                    if stopping_since is None:
                        stopping_since, self.stop = now, signal.Signals(number).name
                    elif now - stopping_since > SAME_REQUEST_SECONDS:
                        os._exit(128 + number)  # what is half saved is not taken for a checkpoint
