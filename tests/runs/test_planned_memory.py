"""The memory that is planned for a run is what its processes take."""
import json
import sys

import pytest

from tests.support.command import run_program


@pytest.mark.usefixtures("native_kernels")  # a plan for CPUs is one for the native kernels
def test_resident_memory_of_two_ranks(tmp_path):
    # Memory doesn't depend on how fast or busy a machine is.
    command = [sys.executable, "benchmarks/memory.py", "--json", str(tmp_path / "results.json")]
    result = run_program([*command, "--only", "finetune 1x1x2"], timeout=600)
    assert result.returncode == 0, result.stdout
    (case,) = json.loads((tmp_path / "results.json").read_text())["cases"]
    assert case["ratios"] == pytest.approx([1, 1], abs=0.15)
