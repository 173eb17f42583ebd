"""The native kernels and image functions touch no memory but their own, whatever the shape and the instruction set."""
import os
import subprocess

import pytest

from tests.support.command import ROOT
from tests.support.needs import needs_cxx


@needs_cxx
@pytest.mark.parametrize("sanitizer", ["address", "undefined", "thread"])
def test_kernels_under(sanitizer):
    command = ["bash", ROOT / "csrc/check.sh", sanitizer]
    # A preloaded BLAS would come before the sanitizer's own library.
    env = {name: value for name, value in os.environ.items() if name != "LD_PRELOAD"}
    result = subprocess.run(
        command, env=env, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True
    )
    assert result.returncode == 0, result.stdout
    assert "agree" in result.stdout
    assert "images resized" in result.stdout or "runs no image code" in result.stdout
