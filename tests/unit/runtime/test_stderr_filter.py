"""Known lines of noise are left out of standard error, and nothing else ever is."""
import os
import signal
import subprocess
import sys

import pytest

from tests.support.command import ROOT

PLAIN = "libibverbs not available, ibv_fork_init skipped\n"
WARNING = (
    "W20261125 12:03:05.693614  5369 cuda_device_descriptor_class.cpp:48] CUDA driver version is "
    "insufficient for CUDA runtime version\n"
)
ERROR = (
    "E20261125 12:03:07.102461  5369 cuda_device_manager_factory.cpp:65] Failed to get cuda runtime "
    "version: CUDA driver version is insufficient for CUDA runtime version\n"
)
START = "import os, sys, time; from projects.MAE.runtime.stderr_filter import hide_known_noise; hide_known_noise()\n"


def run(code, **environment):
    """Standard error and status of Python code after the filter has been put in."""
    found = dict(os.environ, PYTHONPATH=str(ROOT), **environment)
    result = subprocess.run(
        [sys.executable, "-c", START + code], env=found, stderr=subprocess.PIPE, text=True, timeout=120
    )
    return result.stderr, result.returncode


def says(*texts):
    return "\n".join(f"os.write(2, {text.encode()!r})" for text in texts)


@pytest.fixture
def no_driver(tmp_path):
    """A path without nvidia-smi, as on a machine without a GPU."""
    return {"PATH": str(tmp_path)}


def test_known_lines_are_left_out(no_driver):
    real = "E20261125 12:03:07.1 5369 actor.cpp:65] a real error\n"
    text, status = run(says(PLAIN, "one\n", WARNING, real, ERROR, "two\n"), **no_driver)
    assert (text, status) == ("one\n" + real + "two\n", 0)


def test_the_trace_of_a_lost_rank_is_left_out_and_no_other(no_driver):
    fatal = "F20261128 07:16:49.582173  8606 {}] Check failed: rpc_client_.Call() == OK (14 vs. 0) {}\n"
    trace = "*** Check failure stack trace: ***\n    @     0x7f72611d09ca  google::LogMessage::Fail()\n"
    lost = fatal.format("ctrl_client.cpp:54", "Machine 0 lost") + trace
    poll = "F20261128 10:18:45.281615  9786 io_event_poller.cpp:95] Check failed: !(events & EPOLLERR) fd: 34\n"
    lost += poll + trace
    other = fatal.format("actor.cpp:65", "Machine 0 lost") + trace
    text, _ = run(says("one\n", lost, "two\n", other, "three\n"), **no_driver)
    assert text == "one\ntwo\n" + other + "three\n"


def test_with_a_driver_its_errors_stay(tmp_path):
    tool = tmp_path / "nvidia-smi"
    tool.write_text("#!/bin/sh\n")
    tool.chmod(0o755)
    assert run(says(PLAIN, WARNING, ERROR), PATH=str(tmp_path)) == (WARNING + ERROR, 0)


def test_a_line_that_says_more_stays(no_driver):
    longer = "rank 3: " + PLAIN
    after = WARNING.replace("\n", " (fatal)\n")
    assert run(says(longer, after), **no_driver)[0] == longer + after


def test_all_can_be_seen(no_driver):
    assert run(says(PLAIN, WARNING), MAE_NOISE="1", **no_driver)[0] == PLAIN + WARNING


def test_pieces_of_lines_and_what_has_no_end(no_driver):
    pieces = says(PLAIN[:10], PLAIN[10:], "half a ") + "\ntime.sleep(0.6)\n" + says("line", "\n", "no end")
    assert run(pieces, **no_driver)[0] == "half a line\nno end"


@pytest.mark.parametrize("end", ["SIGKILL", "SIGABRT", "SIGSEGV"])
def test_last_words_of_a_killed_process(no_driver, end):
    number = getattr(signal, end)
    text, status = run(says("last words\n", PLAIN) + f"\nos.kill(os.getpid(), {int(number)})", **no_driver)
    assert (text, status) == ("last words\n", -number)


def test_much_at_once_comes_through_in_order(no_driver):
    code = "\n".join(
        ["for i in range(30000):", "    os.write(2, b'line %d\\n' % i)"]
        + ["    if i % 100 == 0:", f"        os.write(2, {PLAIN.encode()!r})"]
    )
    assert run(code, **no_driver)[0].splitlines() == [f"line {i}" for i in range(30000)]


def test_python_writes_straight_on_in_order_with_standard_output(no_driver):
    code = "for i in range(50):\n    print(i, flush=True); print(-i, file=sys.stderr)"
    found = dict(os.environ, PYTHONPATH=str(ROOT), **no_driver)
    result = subprocess.run(
        [sys.executable, "-c", START + code],
        env=found,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
    )
    assert result.stdout.split() == [text for i in range(50) for text in (str(i), str(-i))]


def test_the_filter_ends_with_what_it_filters(no_driver):
    code = START + says("begun\n") + "\ntime.sleep(600)"
    found = dict(os.environ, PYTHONPATH=str(ROOT), **no_driver)
    run = subprocess.Popen([sys.executable, "-c", code], env=found, stderr=subprocess.PIPE)
    try:
        assert run.stderr.readline() == b"begun\n"
        assert [p for p in os.listdir("/proc") if p.isdigit() and is_child(p, run.pid)]
    finally:
        run.kill()
        run.wait()
    assert run.stderr.read() == b""  # comes when nobody holds the other end: the filter is gone


def is_child(pid, parent):
    try:
        with open(f"/proc/{pid}/stat") as file:
            return int(file.read().rsplit(")", 1)[1].split()[1]) == parent
    except OSError:
        return False  # it ended meanwhile
