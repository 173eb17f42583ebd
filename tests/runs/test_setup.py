"""Set-up says in one line what it can't do."""
import os
import subprocess
import sys

import pytest

from tests.support.command import ROOT
from tests.support.needs import CXX, needs_cxx


def setup(copy, *arguments, **environment):
    """Run tools/setup.sh of a copy without .venv, so that nothing of this tree is touched."""
    return subprocess.run(
        ["bash", copy / "tools/setup.sh", *arguments],
        env={**os.environ, **environment},
        capture_output=True,
        text=True,
        timeout=60,
    )


@pytest.fixture
def copy(tmp_path):
    (tmp_path / "tools").mkdir()
    for name in ("tools/setup.sh", "tools/common.sh", "setup.py", "constraints.txt"):
        (tmp_path / name).write_bytes((ROOT / name).read_bytes())
    return tmp_path


def assert_one_line(result, *parts):
    assert result.returncode == 1
    lines = result.stderr.strip().splitlines()
    assert len(lines) == 1 and all(part in lines[0] for part in parts), result.stderr


def test_another_system(copy, tmp_path):
    uname = tmp_path / "bin" / "uname"
    uname.parent.mkdir()
    uname.write_text('#!/bin/sh\n[ "$1" = -s ] && echo Darwin || echo arm64\n')
    uname.chmod(0o755)
    result = setup(copy, PATH=f"{uname.parent}:{os.environ['PATH']}")
    assert_one_line(result, "Linux on x86-64 only", "Darwin on arm64")


def test_no_suitable_python(copy, tmp_path):
    programs = tmp_path / "bin"
    programs.mkdir()
    for name in ("bash", "uname", "dirname", "basename", "sha256sum", "cut", "cat", "mkdir", "flock", "df", "awk"):
        found = subprocess.run(["which", name], capture_output=True, text=True).stdout.strip()
        (programs / name).symlink_to(found)
    result = setup(copy, PATH=str(programs), PYENV_ROOT=str(tmp_path), HOME=str(tmp_path))
    assert_one_line(result, "no Python 3.8, 3.9 or 3.10 found", "uv python install 3.10")


def test_unknown_extra(copy):
    assert_one_line(setup(copy, "nosuch"), "there is no extra nosuch")


@needs_cxx
@pytest.mark.parametrize("understood, built", [("c11", ["libmae_image.so"]), ("nothing", [])])
def test_a_library_that_cannot_be_built_is_not_left_of_other_sources(tmp_path, understood, built):
    libraries = tmp_path / "lib"
    libraries.mkdir()
    for name in ("image", "rest", "native"):
        (libraries / f"libmae_{name}.so").write_text("of other sources")
    compiler = tmp_path / "compiler"
    script = f'case "$*" in *{understood}*) exec {CXX} "$@" ;; esac\nexit 1\n'
    compiler.write_text(f"#!/bin/sh\n{script}")
    compiler.chmod(0o755)
    result = subprocess.run(
        ["bash", ROOT / "csrc/build.sh", sys.executable, libraries],
        env={**os.environ, "CXX": str(compiler), "LD_PRELOAD": ""},
        capture_output=True,
    )
    assert result.returncode != 0 and sorted(os.listdir(libraries)) == built
    for name in built:
        assert (libraries / name).stat().st_size > 1000
