"""Runs a command on a terminal of its own, and keeps what a person would have seen."""
import fcntl
import os
import pty
import re
import select
import signal
import struct
import subprocess
import termios
import time


def on_terminal(command, columns=100, rows=30, timeout=300, **options):
    """Run a command with standard output and error on a new terminal.

    Returns:
        Its exit status and all that it wrote, as text, carriage returns included.
    """
    ours, theirs = pty.openpty()
    fcntl.ioctl(theirs, termios.TIOCSWINSZ, struct.pack("HHHH", rows, columns, 0, 0))
    run = subprocess.Popen(
        [str(part) for part in command],
        stdin=subprocess.DEVNULL,
        stdout=theirs,
        stderr=theirs,
        start_new_session=True,
        **options,
    )
    os.close(theirs)
    written, deadline = b"", time.monotonic() + timeout
    try:
        while time.monotonic() < deadline:
            if select.select([ours], [], [], 1)[0]:
                try:
                    chunk = os.read(ours, 1 << 16)
                except OSError:  # Linux's end of a terminal that nobody holds any more
                    break
                written += chunk
        return run.wait(max(1, deadline - time.monotonic())), written.decode()
    finally:
        if run.poll() is None:
            os.killpg(run.pid, signal.SIGKILL)  # its ranks end with it
            run.wait()
        os.close(ours)


def frames(text):
    """What stood on a line at one time or another: texts between line ends and carriage returns,
    without control sequences and trailing blanks."""
    plain = re.sub(r"\x1b\[[0-9;]*[A-Za-z]", "\n", text)
    return [part.rstrip() for part in re.split(r"[\r\n]+", plain) if part.strip()]
