"""A run's record names the LiBai that made it."""
import importlib.metadata
import os
import subprocess
import sys

import pytest

from tests.support.command import ROOT
from tests.support.needs import needs_git

PRINT = "from projects.MAE.runtime.versions import libai_version; print(libai_version())"


def version_with(folder):
    """What is recorded where a folder comes first on the path."""
    done = subprocess.run(
        [sys.executable, "-c", PRINT],
        cwd=ROOT,
        env=dict(os.environ, PYTHONPATH=str(folder)),
        stdout=subprocess.PIPE,
        text=True,
        check=True,
    )
    return done.stdout.strip()


@pytest.fixture
def checkout(tmp_path):
    """A folder with a package libai, which is not the installed one."""
    (tmp_path / "libai").mkdir()
    (tmp_path / "libai" / "__init__.py").touch()
    return tmp_path


def test_an_installed_release(tmp_path):
    assert version_with(tmp_path) == importlib.metadata.version("libai")


@needs_git
def test_a_checkout_comes_before_the_installed_release(checkout):
    def git(*arguments):
        author = ["-c", "user.name=A", "-c", "user.email=a@example.org"]
        command = ["git", *author, "-C", checkout, *arguments]
        return subprocess.run(command, stdout=subprocess.PIPE, text=True, check=True).stdout.strip()

    git("init", "--quiet")
    git("add", ".")
    git("commit", "--quiet", "--message", "A commit")
    assert version_with(checkout) == f"commit {git('rev-parse', '--short=12', 'HEAD')}"


def test_a_copy_of_a_checkout_is_of_no_known_version(checkout):
    assert version_with(checkout) == "unknown"
