"""The CUDA kernels' library, and the same kernels for this CPU, built once for these tests."""
import os
import subprocess
import sys
from pathlib import Path

import pytest

from tests.needs import CXX, needs

ROOT = Path(__file__).resolve().parents[2]


@pytest.fixture(scope="session")
def cuda_folder(tmp_path_factory):
    """A folder with libmae_cuda.so and libmae_cuda_emulated.so."""
    if needs(CXX, "C++ compiler").args[0]:
        pytest.skip("there is no C++ compiler")
    folder = tmp_path_factory.mktemp("cuda")
    for command in (["build.sh", sys.executable], ["build_emulated.sh"]):
        script, *arguments = command
        path = str(ROOT / "csrc" / "cuda" / script)
        subprocess.run(["bash", path, *arguments, str(folder)], check=True)
    return folder


@pytest.fixture(scope="session")
def run_with_kernels(cuda_folder):
    """Run Python with the library named, and return what it printed; fails where it fails."""

    def run(*arguments, cwd=ROOT, **environment):
        library = str(cuda_folder / "libmae_cuda.so")
        settings = dict(MAE_CUDA_KERNELS=library, MAE_NATIVE="0", PYTHONPATH=str(ROOT))
        process = subprocess.run(
            [sys.executable, *arguments],
            cwd=cwd,
            env={**os.environ, **settings, **environment},
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
        )
        assert process.returncode == 0, process.stdout[-3000:]
        return process.stdout

    return run


@pytest.fixture(scope="session")
def emulated(cuda_folder):
    """The device of operators.py and experiments.py that runs the kernels on this CPU."""
    return f"emulated:{cuda_folder / 'libmae_cuda_emulated.so'}"
