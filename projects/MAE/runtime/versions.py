"""environment.json: with what a run was made, for the report and for whoever repeats it."""
import functools
import importlib.metadata
import importlib.util
import json
import os
import platform
import subprocess
import sys
import time

from projects.MAE.utils.disk import write_text

FILE = "environment.json"
PACKAGES = ("oneflow", "flowvision", "numpy", "pillow", "mkl", "scipy-openblas32", "tensorboardX")


def save_environment(output_dir, **facts):
    """Write environment.json; `facts` are what the run knows of itself, plain values."""
    started = time.strftime("%Y-%m-%d %H:%M:%S")
    content = dict(started=started, arguments=sys.argv[1:], **facts, versions=versions())
    write_text(os.path.join(output_dir, FILE), json.dumps(content, indent=1))


@functools.lru_cache(maxsize=None)
def versions(project=None):
    """{name: version} of Python, the system, the packages that matter and this code (`project`)."""
    found = {"project": project} if project else {}
    found.update(python=platform.python_version(), system=platform.platform())
    found["libai"] = libai_version()
    for package in PACKAGES:
        try:
            found[package] = importlib.metadata.version(package)
        except importlib.metadata.PackageNotFoundError:
            continue  # not needed for this run
    revision = _git_revision(os.path.dirname(os.path.abspath(__file__)))
    if revision:
        found["revision of the code"] = revision
    return found


def libai_version():
    """The release of the LiBai that is imported, or the commit of a checkout.

    A checkout may stand on PYTHONPATH before a release that is installed, too.
    """
    package = os.path.realpath(os.path.dirname(importlib.util.find_spec("libai").origin))
    try:
        installed = importlib.metadata.distribution("libai")
        if os.path.realpath(installed.locate_file("libai")) == package:
            return installed.version
    except importlib.metadata.PackageNotFoundError:
        pass  # a checkout that was never installed
    checkout = os.path.dirname(package)
    # A copy without a .git of its own may lie inside another repository.
    revision = _git_revision(checkout) if os.path.exists(os.path.join(checkout, ".git")) else None
    return f"commit {revision}" if revision else "unknown"


def _git_revision(folder):
    """The commit of the repository that a folder lies in, None outside one."""
    try:
        command = ["git", "-C", folder, "rev-parse", "--short=12", "HEAD"]
        result = subprocess.run(command, capture_output=True, text=True)
    except FileNotFoundError:
        return None  # no git
    return result.stdout.strip() or None
