"""The CUDA kernels' library, and the same kernels for this CPU, built once for these tests."""
import json
import os
import subprocess
import sys
from types import SimpleNamespace

import pytest

from tests.support.command import ROOT
from tests.support.needs import CXX, needs


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


@pytest.fixture(scope="session")
def experiment(run_with_kernels, emulated):
    """Results of tools/gpu/experiments.py: of OneFlow's own kernels on the CPU, or emulated.

    Emulated, what would need code of OneFlow's own on a GPU is refused, so that it fails.
    """

    def result(device, name, **environment):
        script = str(ROOT / "tools" / "gpu" / "experiments.py")
        said = run_with_kernels(script, device, *name.split(), **environment)
        line = next(line for line in said.splitlines() if line.startswith("RESULT"))
        return json.JSONDecoder().raw_decode(line[len("RESULT ") :])[0]

    return SimpleNamespace(
        on_cpu=lambda name: result("cpu", name),
        emulated=lambda name: result(emulated, name, STRICT="1"),
    )
