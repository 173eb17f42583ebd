"""Training, the tests and the commands start with MKL, and with a fair share of threads."""
import glob
import os
import subprocess
import sys
import venv

from projects.MAE.runtime import blas
from projects.MAE.runtime.cpu_environment import THREADS, cpu_environment
from tests.support.command import ROOT

LIBRARIES = os.path.join(sys.prefix, "lib")
MKL = sorted(glob.glob(os.path.join(LIBRARIES, "libmkl_rt.so.*")))[0]


def of_the_scripts(ranks, python=sys.executable, libraries=LIBRARIES, **environment):
    """What tools/common.sh sets for one of so many ranks."""
    script = (
        f"source {ROOT}/tools/common.sh; cpu_cores() {{ echo 8; }}\n"
        f"python='{python}' libraries='{libraries}'; set_cpu_environment {ranks}\n"
        "printf '%s\\n' \"${cpu_environment[@]}\""
    )
    plain = {k: v for k, v in os.environ.items() if k not in (*THREADS, "LD_PRELOAD", "MAE_NATIVE")}
    result = subprocess.run(
        ["bash", "-c", script], env={**plain, **environment}, capture_output=True, text=True
    )
    assert (result.returncode, result.stderr) == (0, "")
    return dict(line.split("=", 1) for line in result.stdout.splitlines())


def test_ranks_share_the_cores():
    assert of_the_scripts(3)["OMP_NUM_THREADS"] == "2"
    assert of_the_scripts(9)["MKL_NUM_THREADS"] == "1"


def test_what_is_set_already_stays():
    other = os.path.join(LIBRARIES, "libiomp5.so")
    found = of_the_scripts(2, OMP_NUM_THREADS="5", MAE_NATIVE="0", LD_PRELOAD=other)
    assert found == dict(OMP_NUM_THREADS="5", MKL_NUM_THREADS="4", LD_PRELOAD=f"{MKL}:{other}")


def test_the_kernels_companion_is_preloaded_with_mkl():
    rest = os.path.join(LIBRARIES, "libmae_rest.so")
    expected = f"{MKL}:{rest}" if os.path.exists(rest) else MKL
    assert of_the_scripts(1)["LD_PRELOAD"] == expected


def test_without_mkl_only_threads_are_set(monkeypatch, tmp_path):
    monkeypatch.setattr(sys, "prefix", str(tmp_path))
    assert set(cpu_environment(3)) == set(THREADS)


def test_libraries_below_a_folder_with_a_blank_are_preloaded(tmp_path):
    """MKL by its name, and what keeps the ports of a run to this machine: nothing is only claimed."""
    folder = tmp_path / "my projects" / ".venv"
    venv.create(folder, symlinks=True, with_pip=False)
    for library in (MKL, os.path.join(LIBRARIES, "libmae_loopback.so")):
        if os.path.exists(library):
            os.symlink(library, folder / "lib" / os.path.basename(library))
    python = folder / "bin/python"
    names = "from projects.MAE.runtime.blas import mkl_is_preloaded as m; print(m()); "
    script = (
        f"source {ROOT}/tools/common.sh; python='{python}' libraries='{folder}/lib'\n"
        "listen_on_loopback; set_cpu_environment 1\n"
        f'env "${{cpu_environment[@]}}" PYTHONPATH={ROOT} "$python" -c "'
        f"{names}print(open('/proc/self/maps').read())\""
    )
    environment = {k: v for k, v in os.environ.items() if not k.startswith("LD_")}
    result = subprocess.run(["bash", "-c", script], env=environment, capture_output=True, text=True)
    assert (result.returncode, result.stderr) == (0, "")
    loaded = result.stdout.splitlines()
    assert loaded[0] == "True"
    for path in (folder / "lib").glob("lib*.so*"):
        assert any(os.path.realpath(path) in line for line in loaded), path


def test_mkl_that_was_not_found_is_not_claimed(monkeypatch):
    monkeypatch.setenv("LD_PRELOAD", "/no/such/libmkl_rt.so.3")
    with open("/proc/self/maps") as file:
        assert blas.mkl_is_preloaded() == ("libmkl_rt" in file.read())


def test_a_colon_in_the_path_is_refused(tmp_path, monkeypatch):
    folder = tmp_path / "co:lon"
    folder.symlink_to(sys.prefix)
    script = f"source {ROOT}/tools/common.sh; find_python"
    environment = dict(os.environ, MAE_PYTHON=str(folder / "bin/python"))
    result = subprocess.run(["bash", "-c", script], env=environment, stderr=subprocess.PIPE, text=True)
    assert result.returncode == 1 and len(result.stderr.splitlines()) == 1
    assert f"{folder}/lib: the name of a folder holds a colon, at which paths are split" in result.stderr
    monkeypatch.setattr(sys, "prefix", str(folder))  # a command goes on without MKL
    assert set(cpu_environment(1)) == set(THREADS)
