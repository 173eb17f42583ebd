"""How the measured processes take turns: one steps, all others are stopped by a signal.

A side is what is compared: a command that starts one process or several (ranks). Each process
connects to a Unix socket, says that it is ready, and then does what it is told, one line of JSON a
message. Only the standard library is used, and no syntax newer than Python 3.8, because the sides
run in different environments.
"""
import ctypes
import json
import os
import select
import signal
import socket
import subprocess
import time

SOCKET = "BENCHMARK_SOCKET"  # in a process's environment: where to connect
PAUSE = 0.2  # seconds for the other side to come to rest


class SideFailed(Exception):
    """A measured process ended, or did not answer in time; the message ends with its output."""


class Channel:
    """Messages over a connected socket: JSON, one a line."""

    def __init__(self, connection):
        self.connection, self.reader = connection, connection.makefile("r")

    def send(self, message):
        self.connection.sendall((json.dumps(message) + "\n").encode())

    def receive(self):
        """The next message, or None when the other end is closed."""
        line = self.reader.readline()
        return json.loads(line) if line else None

    def fileno(self):
        return self.connection.fileno()

    def close(self):
        self.reader.close()
        self.connection.close()


# ---- in the coordinator ----


class Side:
    """A command whose processes step when told to and cost nothing in between.

    Example::

        with Side("ours", ["bash", "tools/train.sh", ...], environment, 2, folder) as side:
            seconds = side.turn("step")["seconds"]

    Args:
        name: for messages and file names.
        command, environment: what to start.
        processes: how many of its processes connect.
        folder: a temporary folder for the socket and the output.
        timeout: seconds to wait for an answer.
    """

    def __init__(self, name, command, environment, processes, folder, timeout=900):
        self.name, self.timeout = name, timeout
        self.output = os.path.join(folder, name + ".log")
        path = os.path.join(folder, name + ".sock")
        listener = socket.socket(socket.AF_UNIX)
        listener.bind(path)
        listener.listen(processes)
        self.channels, self.pids, self.hellos = [], [], []
        with open(self.output, "w") as output:
            self.process = subprocess.Popen(
                command,
                env=dict(environment, **{SOCKET: path}),
                stdin=subprocess.DEVNULL,
                stdout=output,
                stderr=subprocess.STDOUT,
                preexec_fn=prepare_process,
            )
        try:
            with listener:
                for _ in range(processes):
                    self._wait_for([listener])
                    self.channels.append(Channel(listener.accept()[0]))
            self.hellos = self._answers()
            self.pids = [hello["pid"] for hello in self.hellos]
        except BaseException:
            self.close()
            raise
        self._signal(signal.SIGSTOP)

    def __enter__(self):
        return self

    def __exit__(self, *unused):
        self.close()

    def turn(self, command):
        """Let every process do a command while all other sides are stopped.

        Returns:
            A dict: "seconds" from the command to the last answer; "cpu_seconds" that the side's
            processes used; "others_cores", how many cores other work on this machine took
            meanwhile; "answers", one a process.
        """
        used, busy = self._cpu_seconds(), busy_seconds()
        self._signal(signal.SIGCONT)
        start = time.perf_counter()
        for channel in self.channels:
            channel.send(command)
        answers = self._answers()
        seconds = time.perf_counter() - start
        time.sleep(PAUSE)  # what a process still does now is its own, not the next side's
        used, busy = self._cpu_seconds() - used, busy_seconds() - busy
        window = time.perf_counter() - start
        self._signal(signal.SIGSTOP)
        others = max(busy - used, 0.0) / window
        return dict(seconds=seconds, cpu_seconds=used, others_cores=others, answers=answers)

    def close(self):
        """End every process of the side."""
        if self.process.poll() is None:
            self._signal(signal.SIGCONT)
            self.process.terminate()
            try:
                self.process.wait(60)
            except subprocess.TimeoutExpired:
                self.process.kill()
                self.process.wait()
        for channel in self.channels:
            channel.close()

    def _cpu_seconds(self):
        return sum(cpu_seconds(pid) for pid in self.pids)

    def _answers(self):
        answers, waiting = {}, dict(enumerate(self.channels))
        while waiting:
            ready = self._wait_for(list(waiting.values()))
            for i in [i for i, channel in waiting.items() if channel in ready]:
                answers[i] = waiting.pop(i).receive()
                if answers[i] is None:
                    self._fail("ended")
        return [answers[i] for i in range(len(self.channels))]

    def _wait_for(self, sockets):
        deadline = time.monotonic() + self.timeout
        while time.monotonic() < deadline:
            ready, _, _ = select.select(sockets, [], [], 1.0)
            if ready:
                return ready
            if self.process.poll() is not None:
                self._fail(f"ended with status {self.process.returncode}")
        self._fail(f"did not answer within {self.timeout} s")

    def _fail(self, what):
        with open(self.output, errors="replace") as file:
            tail = "".join(file.readlines()[-15:])
        raise SideFailed(
            f"the side '{self.name}' {what}, perhaps for want of memory; the end of its "
            f"output:\n{tail}"
        )

    def _signal(self, number):
        for pid in self.pids:
            try:
                os.kill(pid, number)
            except ProcessLookupError:
                pass  # it failed, which the next answer will show


def prepare_process():
    """In a side's first process: end with the coordinator, and go first when memory ends."""
    end_with_parent()
    with open("/proc/self/oom_score_adj", "w") as file:
        file.write("1000")


def end_with_parent():
    """Ask Linux to kill this process when its parent ends, so that no stopped one is left over."""
    PR_SET_PDEATHSIG = 1
    ctypes.CDLL(None, use_errno=True).prctl(PR_SET_PDEATHSIG, signal.SIGKILL)


def cpu_seconds(pid):
    """User and system time of a process so far, all threads."""
    with open(f"/proc/{pid}/stat") as file:
        fields = file.read().rsplit(")", 1)[1].split()
    return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")


def busy_seconds():
    """CPU time that all work on this machine has taken so far, over all cores."""
    with open("/proc/stat") as file:
        user, nice, system, _, _, irq, softirq = map(int, file.readline().split()[1:8])
    return (user + nice + system + irq + softirq) / os.sysconf("SC_CLK_TCK")


# ---- in a measured process ----


class Turns:
    """A measured process's end: `start` when ready to step, `wait` before and `done` after a step.

    Example::

        turns = Turns(versions)
        while turns.wait() == "step":
            step()
            turns.done()

    Args:
        facts: what to report once, such as versions; the memory the process takes now is added.
    """

    def __init__(self, **facts):
        self.facts = dict(facts, pid=os.getpid(), baseline_mb=resident_mb("VmRSS"))

    def start(self):
        """Connect and say that this process is ready."""
        connection = socket.socket(socket.AF_UNIX)
        connection.connect(os.environ[SOCKET])
        self.channel = Channel(connection)
        self.channel.send(self.facts)

    def wait(self):
        """The next command; None when the coordinator has gone. Peak memory counts from here."""
        command = self.channel.receive()
        reset_peak_memory()
        return command

    def done(self, **result):
        """Report that the command is done, with what it gave."""
        self.channel.send(dict(result, peak_mb=resident_mb("VmHWM")))


def resident_mb(field):
    """Memory of this process in MiB: "VmRSS" now, "VmHWM" at the peak since the last reset."""
    with open("/proc/self/status") as file:
        for line in file:
            if line.startswith(field + ":"):
                return int(line.split()[1]) / 1024
    raise OSError(f"/proc/self/status has no {field}")


def reset_peak_memory():
    """Make VmHWM count from now on (5 resets the mark, see proc(5))."""
    with open("/proc/self/clear_refs", "w") as file:
        file.write("5")
