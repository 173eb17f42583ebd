"""environment.json: with what a run was made, for the report and for whoever repeats it."""
import importlib.metadata
import json
import os
import platform
import subprocess
import sys
import time

FILE = "environment.json"
PACKAGES = ("oneflow", "libai", "flowvision", "numpy", "pillow", "mkl", "scipy-openblas32", "tensorboardX")


def save_environment(output_dir, **facts):
    """Write environment.json; `facts` are what the run knows of itself, plain values."""
    content = dict(
        started=time.strftime("%Y-%m-%d %H:%M:%S"),
        arguments=sys.argv[1:],
        **facts,
        versions=versions(),
    )
    with open(os.path.join(output_dir, FILE), "w") as file:
        json.dump(content, file, indent=1)


def versions():
    """{name: version} of Python, the system, the packages that matter and this code."""
    found = {"python": platform.python_version(), "system": platform.platform()}
    for package in PACKAGES:
        try:
            found[package] = importlib.metadata.version(package)
        except importlib.metadata.PackageNotFoundError:
            continue  # not needed for this run, or used from a checkout
    revision = _git_revision()
    if revision:
        found["revision of the code"] = revision
    return found


def _git_revision():
    """The commit of the repository that this file lies in, None outside one."""
    try:
        result = subprocess.run(
            ["git", "-C", os.path.dirname(os.path.abspath(__file__)), "rev-parse", "--short=12", "HEAD"],
            stdout=subprocess.PIPE,
            stderr=subprocess.DEVNULL,
            text=True,
        )
    except FileNotFoundError:
        return None  # no git
    return result.stdout.strip() or None
