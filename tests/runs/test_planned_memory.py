"""The memory that is planned for a run is what its processes take."""
import json
import subprocess
import sys

import pytest

from tests.support.command import ROOT, environment


@pytest.mark.usefixtures("native_kernels")  # a plan for CPUs is one for the native kernels
def test_resident_memory_of_two_ranks(tmp_path):
    # Memory doesn't depend on how fast or busy a machine is.
    result = subprocess.run(
        [sys.executable, "benchmarks/memory.py", "--json", str(tmp_path / "results.json")]
        + ["--only", "finetune 1x1x2"],
        cwd=ROOT,
        env=environment(),
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        timeout=600,
    )
    assert result.returncode == 0, result.stdout
    (case,) = json.loads((tmp_path / "results.json").read_text())["cases"]
    assert case["ratios"] == pytest.approx([1, 1], abs=0.15)
