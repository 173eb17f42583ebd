"""The PyTorch that the project is compared with: a virtual environment of its own.

It is made in benchmarks/.peer on the newest Python that has the packages.
"""
import glob
import os
import shutil
import subprocess
import sys

FOLDER = os.path.join(os.path.dirname(os.path.abspath(__file__)), ".peer")
PYTHONS = ("3.14", "3.13", "3.12", "3.11", "3.10")  # newest first; torch needs 3.10
TORCH = "2.13.0"
# timm needs torchvision's Python files; without its dependencies it can't replace torch.
ALONE = ("torchvision==0.28.0", "timm==1.0.31")
OTHERS = ("numpy", "pillow", "pyyaml", "huggingface_hub", "safetensors", "transformers==5.23.0")
STAMP = "\n".join((TORCH,) + ALONE + OTHERS)


class NoPeer(Exception):
    """The environment can't be made; the message says what to do."""


def peer_python():
    """The path of the environment's Python; makes the environment first if need be.

    Raises:
        NoPeer: there is no Python for it, or pip fails.
    """
    stamp, python = os.path.join(FOLDER, "complete"), os.path.join(FOLDER, "bin", "python")
    if os.path.isfile(stamp) and open(stamp).read() == STAMP:
        return python
    print(f"Making the peer's environment in {FOLDER}", file=sys.stderr)
    pip = torch_environment(python)
    for packages in (("--no-deps",) + ALONE, OTHERS):
        error = run_pip(pip, *packages)
        if error:
            raise NoPeer(f"pip could not install {' '.join(packages)}: {error}")
    with open(stamp, "w") as file:
        file.write(STAMP)
    return python


def torch_environment(python):
    """Make the environment with torch in it; returns the command of its pip.

    The CPU build comes first. It is where PIP_EXTRA_INDEX_URL or PIP_FIND_LINKS say, if they name
    PyTorch's own index or files; the default build for Linux brings gigabytes of CUDA libraries.
    """
    found, error = pythons(), None
    for build in (f"torch=={TORCH}+cpu", f"torch=={TORCH}"):
        for candidate in found:
            shutil.rmtree(FOLDER, ignore_errors=True)
            subprocess.run([candidate, "-m", "venv", FOLDER], check=True)
            pip = [python, "-m", "pip", "--disable-pip-version-check"]
            print(f"Trying {build} with {candidate}", file=sys.stderr)
            error = run_pip(pip, build)
            if not error:
                return pip
    shutil.rmtree(FOLDER, ignore_errors=True)
    if not found:
        raise NoPeer(f"PyTorch {TORCH} needs Python {PYTHONS[-1]} or newer, and none was found")
    raise NoPeer(f"pip could not install PyTorch {TORCH}: {error}")


def run_pip(pip, *packages):
    """None, or the last line of pip's error."""
    done = subprocess.run(
        [*pip, "install", "--quiet", *packages], stdout=subprocess.PIPE, stderr=subprocess.STDOUT
    )
    lines = [line for line in done.stdout.decode().splitlines() if line.startswith("ERROR")]
    return (lines or ["it failed"])[-1] if done.returncode else None


def pythons():
    """Interpreters that run and can make environments, newest first, one a version."""
    found = {}
    for version in PYTHONS:
        home = os.environ.get("PYENV_ROOT", os.path.expanduser("~/.pyenv"))
        names = [shutil.which(f"python{version}"), shutil.which("python3"), sys.executable]
        for name in names + glob.glob(f"{home}/versions/{version}.*/bin/python"):
            if name and version not in found and is_python(name, version):
                found[version] = name
    return list(found.values())


def is_python(path, version):
    """Whether a path is an interpreter of a version. A name on PATH may be a shim that fails."""
    code = "import sys, venv, ensurepip; print('%d.%d' % sys.version_info[:2])"
    try:
        done = subprocess.run([path, "-c", code], stdout=subprocess.PIPE, stderr=subprocess.DEVNULL)
    except OSError:
        return False
    return done.returncode == 0 and done.stdout.decode().strip() == version


if __name__ == "__main__":
    print(peer_python())
