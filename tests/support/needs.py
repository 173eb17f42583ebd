"""What some tests need of a machine, and skip without.

The project runs without a compiler, git or root's rights, more slowly or with less to look at, and
`tools/test.sh` is to pass there, too: it says at its end what was left out. CI has all of them.
"""
import os
import shutil
import subprocess

import pytest

CC, CXX = os.environ.get("CC", "cc"), os.environ.get("CXX", "g++")


def needs(command, what):
    """A mark for tests that start a command, or start what does."""
    return pytest.mark.skipif(shutil.which(command) is None, reason=f"there is no {what}")


needs_cc = needs(CC, "C compiler")
needs_cxx = needs(CXX, "C++ compiler")
needs_git = needs("git", "git")


def mount_memory(folder, *options):
    """Mount a disk in memory on a folder; skips where the system doesn't let us."""
    mount = ["mount", "-t", "tmpfs", *options, "tmpfs", str(folder)]
    mounted = subprocess.run(mount, capture_output=True, text=True)
    if mounted.returncode:
        pytest.skip(f"nothing can be mounted (that needs root): {mounted.stderr.strip()}")
