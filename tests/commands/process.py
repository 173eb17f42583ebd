"""Runs the commands of this project: in this process, and as a user does."""
import os
import subprocess
import sys

from tests.support.command import ROOT, environment


def start(name, *arguments, **options):
    """`python -m projects.MAE.NAME ...` as a running process, output as text."""
    command = [sys.executable, "-m", f"projects.MAE.{name}", *map(str, arguments)]
    pipes = dict(stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
    env = dict(environment(), PYTHONPATH=os.fspath(ROOT))
    return subprocess.Popen(command, **{"cwd": ROOT, "env": env, **pipes, **options})


def run(name, *arguments, timeout=300, **options):
    """The same, ended: (exit status, stdout, stderr)."""
    process = start(name, *arguments, **options)
    try:
        out, error = process.communicate(timeout=timeout)
    finally:
        process.kill()
        process.wait()
    return process.returncode, out, error


def succeed(capsys, main, *arguments):
    """Call a command's `main`; returns what it printed."""
    status = main([str(a) for a in arguments])
    captured = capsys.readouterr()
    assert status == 0, captured.err
    return captured.out


def refused(capsys, main, *arguments):
    """Call a command's `main`, which has to fail with one line; returns it. Before it may stand what
    was assumed of weights."""
    assert main([str(a) for a in arguments]) == 1
    *notes, error = capsys.readouterr().err.splitlines(keepends=True)
    assert error.startswith("error: ") and error.endswith("\n")
    assert all(note.startswith("note: ") for note in notes), notes
    return error
