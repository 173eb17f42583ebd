"""Reports of folders that a stranger made: a page or one line, soon, and nothing from elsewhere."""
import json
import os
import re
import socket
import subprocess
import sys

import pytest

from projects.MAE.errors import UserError
from projects.MAE.report.run import LARGEST_PICTURE, read_run
from projects.MAE.report.save import save_report
from tests.support.command import ROOT
from tests.support.folders import CONFIG, lines, make_checkpoint, make_evaluation, make_run

SECRET = "hunter2"
ALIASES = "a0: &a0 [x]\n" + "".join(f"a{i}: &a{i} [{f'*a{i - 1},' * 10}]\n" for i in range(1, 12))
DOUBLING = "b0: xxxx\n" + "".join(f"b{i}: '${{b{i - 1}}}${{b{i - 1}}}'\n" for i in range(1, 30))
CONFIGS = {
    "aliases of aliases": ALIASES,
    "references that double": DOUBLING,
    "a secret of the environment": "leak: ${oc.env:SECRET_TOKEN}\nalso: ${oc.decode:${oc.env:SECRET_TOKEN}}\n",
    "a number of many digits": "train_iter: " + "9" * 5000,
    "a hexadecimal number": "train_iter: 0x" + "f" * 5000,
    "a number of base 60": "x: 1" + ":1" * 20_000,
    "no day": "x: 2001-99-99\n",
    "keys that are numbers": "".join(f"{(2**61 - 1) * i}: 1\n" for i in range(1, 2000)),
    "keys of other kinds": "1: 2\nnull: 3\n2.5: 4\ntrue: 5\n2001-01-01: 6\n{1: 2}: 3\n? [1]\n: 4\n",
    "tags of a wrong kind": "a: !!int [1]\nb: !!map x\nc: !!seq {a: 1}\nd: !!bool [1]\ne: !!float {}\n",
    "a call": "q: !!python/object/apply:os.system ['touch RAN']\n",
    "merged keys": "a: &a {b: 1}\nc: {<<: *a, <<: [1]}\n",
    "nested": "z: " + "[" * 300 + "]" * 300,
    "markup": "z: '</pre><script>alert(1)</script>'\n",
    "no text": "\udcff\udcfe\n",
}


def page_of(*folders):
    out = folders[0].parent / "page.html"
    save_report([str(folder) for folder in folders], str(out))
    page = out.read_text()
    assert SECRET not in page and not re.search(r"<script|<img src=x", page)
    return page


@pytest.mark.parametrize("kind", CONFIGS)
def test_configurations(tmp_path, monkeypatch, kind):
    monkeypatch.setenv("SECRET_TOKEN", SECRET)
    monkeypatch.chdir(tmp_path)
    folder, other = make_run(tmp_path / "run"), make_run(tmp_path / "other", lr="0.002")
    text = CONFIG % "0.001" + CONFIGS[kind]
    (folder / "config.yaml").write_text(text, errors="surrogateescape")
    page_of(folder)
    page_of(folder, other)  # the settings of two are compared, one by one
    assert not (tmp_path / "RAN").exists()


def put(path, kind, outside):
    """Something else than a regular file of the run in the place of one."""
    if path.exists():
        path.unlink()
    if kind == "pipe":
        os.mkfifo(path)
    elif kind == "folder":
        path.mkdir()
    elif kind == "socket":
        where = os.getcwd()
        os.chdir(path.parent)  # a socket's path is short
        with socket.socket(socket.AF_UNIX) as found:
            found.bind(path.name)
        os.chdir(where)
    else:
        path.symlink_to({"device": "/dev/zero", "nothing": "/nonexistent", "link": outside}[kind])


PLACES = (
    "config.yaml", "environment.json", "metrics.json", "evaluation.json", "reconstructions/a.png",
    "model_0000009/model/model_card.json", "evaluation/knn.json", "report.html",
)  # fmt: skip


@pytest.mark.parametrize("place", PLACES)
@pytest.mark.parametrize("kind", ["pipe", "folder", "socket", "device", "nothing", "link"])
def test_what_is_no_file_of_the_run(tmp_path, place, kind):
    outside = tmp_path / "outside"
    outside.write_text(json.dumps({"Acc@1": 1.0, "weights": SECRET, SECRET: 1.0, "iteration": 1}))
    folder = make_run(tmp_path / "run")
    make_checkpoint(folder, "model_0000009", iteration=10)
    (folder / "evaluation").mkdir()
    put(folder / place, kind, outside)
    before = outside.read_text()
    page_of(folder)
    assert outside.read_text() == before


def test_folders_that_are_links(tmp_path):
    """A stranger's folder may name any other of the machine."""
    outside = make_run(tmp_path / "outside")
    make_evaluation(outside / "own", **{"Acc@1": 1.0, "weights": SECRET})
    make_checkpoint(outside, "model_0000009", iteration=424242)
    folder = make_run(tmp_path / "run", pictures=0)
    (folder / "reconstructions").symlink_to(outside / "reconstructions")
    (folder / "evaluation").symlink_to(outside / "own")
    (folder / "model_0000001").mkdir()
    (folder / "model_0000001" / "model").symlink_to(outside / "model_0000009" / "model")
    (folder / "loop").symlink_to(".")
    page = page_of(folder)
    assert "424242" not in page and "data:image" not in page
    assert "1 files in reconstructions that are no pictures of a run" in page
    run = tmp_path / "moved"
    run.symlink_to(outside)  # the run itself may lie elsewhere
    assert "data:image" in page_of_link(run)


def page_of_link(folder):
    save_report([str(folder)], str(folder.parent / "page.html"))
    return (folder.parent / "page.html").read_text()


def test_pictures_that_are_none(tmp_path):
    folder = make_run(tmp_path / "run", pictures=1)
    (folder / "reconstructions" / "b.png").write_text(SECRET)
    with open(folder / "reconstructions" / "c.png", "wb") as file:
        file.truncate(LARGEST_PICTURE + 1)
    os.makedirs(folder / "reconstructions" / "d.png")
    assert page_of(folder).count("data:image") == 1


FIGURES = {
    "numbers at a float's ends": [1e308, -1e308, 5e-324],
    "numbers of no size": [5e-324, 1e-323, 0],
    "one huge number": [1.7e308],
}


@pytest.mark.parametrize("kind", FIGURES)
def test_figures(tmp_path, kind):
    found = [dict(iteration=i, total_loss=v) for i, v in enumerate(FIGURES[kind], 1)]
    page_of(make_run(tmp_path / "run", found))


@pytest.mark.parametrize("iterations", [(1, 10**300, -5), (-1, -2, -3), (True,), (10**400, 1), (1e999,)])
def test_iterations(tmp_path, iterations):
    page_of(make_run(tmp_path / "run", [dict(iteration=i, total_loss=1.0) for i in iterations]))


def test_names_that_are_markup(tmp_path):
    name = '"><img src=x onerror=alert(1)><script>alert(1)</script>'
    arguments = ["--config-file", name, f"x=$(touch RAN) {name}"]
    folder = make_run(tmp_path / "run", [{"iteration": 1, "total_loss": 1.0, name: 1.0}], arguments=arguments)
    make_checkpoint(folder, "model_<script>alert(2)<", iteration=3)
    make_evaluation(folder, **{name: 1.0, "weights": name, "data": name})
    page_of(folder)


@pytest.mark.parametrize("content", [dict(arguments=5, ranks="x", device=[1], started={"a": 1}), [], 3])
def test_environments_of_other_types(tmp_path, content):
    folder = make_run(tmp_path / "run")
    make_checkpoint(folder, "model_0000009", iteration=10)
    (folder / "environment.json").write_text(json.dumps(content))
    page_of(folder)


def test_more_figures_than_a_run_has(tmp_path):
    found = [{"iteration": 1, "total_loss": 1.0, **{f"m{i}": 1.0 for i in range(3000)}}]
    run = read_run(str(make_run(tmp_path / "run", found)))
    assert len(run.curves) == 50 and "1,000 figures or more" in run.left_out[0]


def test_a_run_that_goes_back_at_every_line(tmp_path):
    found = [*lines(1, 30), *(dict(iteration=20 - i % 2, total_loss=2.0) for i in range(1000))]
    run = read_run(str(make_run(tmp_path / "run", found)))
    assert run.curves["total_loss"][-1] == (19, 2.0) and len(run.restarts) == 501
    assert page_of(tmp_path / "run").count("gone on with") == 11


def test_what_is_not_shown_is_told(tmp_path):
    outside = make_run(tmp_path / "outside")
    make_checkpoint(outside, "model_0000019", iteration=20)
    folder = make_run(tmp_path / "run")
    make_checkpoint(folder, "model_0000009", iteration=10)
    (folder / "model_final").symlink_to("model_0000009")  # is shown by its other name
    (folder / "model_0000019").symlink_to(outside / "model_0000019")
    for i in range(201):
        make_evaluation(folder / f"e{i}", **{"Acc@1": 1.0, "weights": "w"})
    left_out = read_run(str(folder)).left_out
    assert left_out == ["checkpoints that are links out of the folder: 1.", "evaluations after the first 200: 1."]


def test_a_file_too_large_is_told_of(tmp_path):
    folder = make_run(tmp_path / "run")
    with open(folder / "config.yaml", "a") as file:
        file.write("#" * 2**20)
    assert "refused: it has more than 65536 bytes" in page_of(folder)
    (folder / "metrics.json").unlink()
    with pytest.raises(UserError, match="neither a metrics.json nor a config.yaml"):
        read_run(str(folder))


# In a process of its own: what a process forks begins with that one's memory.
MEASURE = """
import resource, subprocess, sys
subprocess.run(sys.argv[1:], check=True, stdout=subprocess.DEVNULL)
print(resource.getrusage(resource.RUSAGE_CHILDREN).ru_maxrss)
"""


def test_the_largest_that_is_read_takes_seconds_and_no_memory(tmp_path):
    folder = make_run(tmp_path / "run")
    figures = {f"m{i}": 1.5 for i in range(45)}
    with open(folder / "metrics.json", "w") as file:
        file.writelines(json.dumps({"iteration": i, "total_loss": 1.0, **figures}) + "\n" for i in range(1, 30_000))
    (folder / "config.yaml").write_text("a: [" + "1," * 32_000 + "]")
    for i in range(10):
        make_checkpoint(folder, f"model_{i:07d}")
        card = folder / f"model_{i:07d}" / "model" / "model_card.json"
        card.write_text('{"a":[' + "[]," * 2**20 + "[]]}")
    for i in range(6):
        (folder / "reconstructions" / f"{i}.png").write_bytes(b"\x89PNG\r\n\x1a\n" + bytes(LARGEST_PICTURE - 8))
    command = [sys.executable, "-c", MEASURE, sys.executable, "-m", "projects.MAE.report", str(folder)]
    environment = dict(os.environ, PYTHONPATH=str(ROOT), LD_PRELOAD="")
    # Some 5 seconds of a processor that has nothing else to do.
    result = subprocess.run(
        command, cwd=ROOT, env=environment, capture_output=True, text=True, timeout=120
    )
    assert result.returncode == 0, result.stderr
    assert int(result.stdout) < 500_000
