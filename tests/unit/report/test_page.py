"""The page, its charts and its markup, as text."""
import math
import os
import shlex
import subprocess
import sys
import xml.etree.ElementTree as ElementTree
from html.parser import HTMLParser
from pathlib import Path

import pytest

from projects.MAE.report.__main__ import parse_arguments
from projects.MAE.report.chart import Series, line_chart, thinned, tick_text, ticks
from projects.MAE.report.markup import Markup, element, void
from projects.MAE.report.page import report
from projects.MAE.report.run import read_run
from tests.support.command import ROOT
from tests.support.folders import lines, make_checkpoint, make_run

HOSTILE = """<script>alert(1)</script>"'&<b>"""


class Reader(HTMLParser):
    """Tags, attributes and text of a page; fails where an element is not closed as it was opened."""

    def __init__(self, text):
        super().__init__()
        self.tags, self.attributes, self.text, self.open = [], [], [], []
        self.feed(text)
        self.close()
        assert self.open == []

    def handle_starttag(self, tag, attrs):
        self.tags.append(tag)
        self.attributes += attrs
        if tag not in ("meta", "link", "img"):
            self.open.append(tag)

    def handle_endtag(self, tag):
        assert self.open.pop() == tag

    def handle_data(self, data):
        self.text.append(data)


def page_of(*folders):
    return Reader(report([read_run(str(folder)) for folder in folders]))


def test_markup_escapes_all_that_is_not_markup():
    assert element("p", HOSTILE, title=HOSTILE).count("<") == 2
    assert element("p", element("b", 1), None, "<") == "<p><b>1</b>&lt;</p>"
    assert void("img", alt='"') == '<img alt="&quot;">'
    assert isinstance(element("p"), Markup)


@pytest.mark.parametrize(
    "low, high, expected",
    [
        (0, 10, [0, 2, 4, 6, 8, 10]),
        (1, 135, [0, 25, 50, 75, 100, 125, 150]),
        (0.5691, 3.419, [0.5, 1, 1.5, 2, 2.5, 3, 3.5]),
        (97.2, 98.6, [97, 97.25, 97.5, 97.75, 98, 98.25, 98.5, 98.75]),
        (3, 3, [1.5, 2, 2.5, 3, 3.5, 4, 4.5]),
        (0, 0, [-1, -0.5, 0, 0.5, 1]),
        (-5, -1, [-5, -4, -3, -2, -1]),
    ],
)
def test_ticks_are_round_and_cover_the_range(low, high, expected):
    assert ticks(low, high) == pytest.approx(expected)


@pytest.mark.parametrize("low, high", [(1e-9, 2e-9), (0, 1e12), (1e5, 1e5 + 1), (2.4e-6, 2e-3)])
def test_ticks_of_any_size_tell_their_values_apart(low, high):
    found = ticks(low, high)
    assert found[0] <= low and found[-1] >= high * (1 - 1e-12) and 3 <= len(found) <= 9
    texts = [tick_text(value, found[1] - found[0]) for value in found]
    assert len(set(texts)) == len(texts) and max(map(len, texts)) <= 12
    step = found[1] - found[0]
    assert all(abs(float(t.replace(",", "")) - v) < step / 20 for t, v in zip(texts, found))


def test_a_chart_is_where_its_numbers_are():
    points = [(0, 0.0), (40, 6.0), (80, 3.0)]
    tree = ElementTree.fromstring(line_chart([Series("loss", points, 0, False)], "iteration", "loss"))
    drawn = tree.find(".//polyline").get("points").split()
    xs, ys = zip(*(map(float, pair.split(",")) for pair in drawn))
    assert xs[1] - xs[0] == pytest.approx(xs[2] - xs[1]) and xs[0] < xs[1]
    assert ys[0] - ys[1] == pytest.approx(2 * (ys[0] - ys[2]), abs=0.2) and ys[1] < ys[2] < ys[0]
    texts = {t.text: (float(t.get("x", 0)), float(t.get("y", 0))) for t in tree.iter("text")}
    assert texts["40"][0] == pytest.approx(xs[1]) and texts["6"][1] == pytest.approx(ys[1] + 4)
    assert "iteration" in texts and "loss" in texts
    assert [t.text for t in tree.iter("title")][1] == "loss, iteration 40: 6"


def test_no_figures_no_chart():
    assert line_chart([Series("loss", [], 0, False)], "iteration", "loss") is None


def test_one_point_and_equal_values_can_be_drawn():
    for points in ([(3, 0.5)], [(1, 0.0), (2, 0.0)], [(0, 7.0)]):
        tree = ElementTree.fromstring(line_chart([Series("x", points, 0, False)], "iteration", "x"))
        for circle in tree.iter("circle"):
            assert math.isfinite(float(circle.get("cx"))) and math.isfinite(float(circle.get("cy")))


def test_thinning_keeps_the_ends_and_the_extremes():
    points = [(i, math.sin(i / 500)) for i in range(100_000)]
    points[54_321] = (54_321, 9.0)
    kept = thinned(points)
    assert len(kept) <= 602 and kept[0] == points[0] and kept[-1] == points[-1]
    assert (54_321, 9.0) in kept and kept == sorted(kept)


def test_a_page_needs_nothing_beside_it(tmp_path):
    folder = make_run(tmp_path / "run", pictures=7)
    make_checkpoint(folder, "model_best", iteration=20, reconstruction_loss=0.25)
    page = page_of(folder)
    sources = [value for name, value in page.attributes if name in ("src", "href", "action")]
    assert len([s for s in sources if s.startswith("data:image/png;base64,")]) == 4  # of 7, evenly
    assert all(source.startswith("data:") for source in sources)
    assert "script" not in page.tags and "url(" not in "".join(page.text)
    assert {"Loss", "Learning rate", "Throughput", "iteration 0", "iteration 30"} <= set(page.text)
    assert "2.0 MB" in page.text and "reconstruction loss 0.2500" in page.text
    assert "0.9.0" in page.text


def test_what_is_wrong_with_a_run_is_said(tmp_path):
    found = [*lines(1, 6), "{", *lines(4, 12)]
    text = " ".join(page_of(make_run(tmp_path / "run", found)).text)
    assert "not finished: 12 of 20 iterations" in text
    assert "gone on with at iteration 4" in text and "1 line of metrics.json could not be read" in text


def test_runs_are_compared(tmp_path):
    first = make_run(tmp_path / "a" / "run")
    second = make_run(tmp_path / "b" / "run", list(lines(1, 10, loss=2.0)), lr="0.002", pictures=0)
    page = page_of(first, second)
    assert page.text.count("3 runs compared") == 0 and "2 runs compared" in page.text
    names = [value for name, value in page.attributes if name == "data-name"]
    assert {"a/run training", "b/run training", "a/run validation", "b/run validation"} <= set(names)
    text = "|".join(page.text)
    assert "optim.lr|0.001|0.002" in text and "model.img_size" not in text.split("config.yaml")[0]
    assert "b/run: not finished: 10 of 20" in text


def test_the_same_run_twice_and_runs_of_other_kinds(tmp_path):
    folder = make_run(tmp_path / "run")
    accuracy = [{"iteration": 5, "total_loss": 2.0, "lr": 0.1}, {"iteration": 5, "Acc@1": 50, "Acc@5": 90}]
    other = make_run(tmp_path / "other", accuracy, pictures=0)
    text = "|".join(page_of(folder, folder, other).text)
    assert "run (1)" in text and "run (2)" in text and "Accuracy" in text and "50.00 %" in text


def test_names_and_values_never_become_markup(tmp_path):
    folder = make_run(tmp_path / f"run{HOSTILE.replace('/', '')}", arguments=[f"a={HOSTILE}"])
    (folder / "config.yaml").write_text(f"model: {{x: '{HOSTILE.replace(chr(39), '')}'}}\n")
    (folder / "metrics.json").write_text(
        '{"iteration": 1, "total_loss": 1, "lr": 1, "<script>m</script>": 2}\n'
    )
    make_checkpoint(folder, "model_<script>best", **{"<script>": HOSTILE})
    (folder / "environment.json").write_text(
        '{"started": "<script>s</script>", "ranks": "<script>", "device": "<b>", '
        '"versions": {"<script>": "<b>"}}'
    )
    page = page_of(folder)
    plain = page_of(make_run(tmp_path / "plain"))
    assert "script" not in page.tags and set(page.tags) <= set(plain.tags) | {"thead", "th"}
    assert "<script>s</script>" in " ".join(page.text)


def run_report(*arguments, cwd):
    environment = dict(os.environ, PYTHONPATH=str(ROOT))
    command = [sys.executable, "-m", "projects.MAE.report", *map(str, arguments)]
    return subprocess.run(command, cwd=cwd, env=environment, capture_output=True, text=True)


def test_the_command(tmp_path):
    first, second = make_run(tmp_path / "first"), make_run(tmp_path / "second")
    for _ in range(2):  # the run's own report is made anew
        result = run_report(first, cwd=tmp_path)
        assert (result.returncode, result.stdout) == (0, f"{first}/report.html\n"), result.stderr
    assert run_report(first, second, cwd=tmp_path).stdout == "report.html\n"
    again = run_report(first, second, cwd=tmp_path)
    assert again.returncode == 1 and "report.html: exists already; --force" in again.stderr
    assert run_report(first, second, "--force", cwd=tmp_path).returncode == 0
    assert "2 runs compared" in (tmp_path / "report.html").read_text()
    wrong = run_report("nowhere", cwd=tmp_path)
    assert wrong.returncode == 1 and wrong.stderr == (
        "error: nowhere: no such folder: name the train.output_dir of a run\n"
    )
    assert not list(tmp_path.glob("**/*.partial"))


def test_names_that_are_no_text_and_numbers_that_are_none(tmp_path):
    huge = "9" * 401
    found = [*lines(1, 5), '{"iteration": 5, "\\ud800": 1}']
    found.append(f'{{"iteration": 6, "total_loss": {huge}}}')
    found.append(f'{{"iteration": {huge}, "total_loss": 1}}')
    folder = make_run(Path(os.fsdecode(os.fsencode(tmp_path) + b"/run\xff")), found)
    make_checkpoint(folder, "model_best", iteration=5, reconstruction_loss=int(huge))
    command = [sys.executable, "-m", "projects.MAE.report", str(folder)]
    environment = dict(os.environ, PYTHONPATH=str(ROOT), PYTHONIOENCODING="utf-8:strict")
    result = subprocess.run(command, cwd=tmp_path, env=environment, capture_output=True, text=True)
    said = f"{tmp_path}/run\\udcff/report.html\n"
    assert (result.returncode, result.stdout, result.stderr) == (0, said, "")
    text = (folder / "report.html").read_text()
    assert "run\\udcff" in text and "\\ud800" in text and huge not in text
    assert "1 line of metrics.json could not be read" in text
    assert not list(folder.glob("*.partial"))


def test_help_and_its_examples(tmp_path):
    result = run_report("--help", cwd=tmp_path)
    assert result.returncode == 0 and result.stderr == ""
    examples = [line.strip() for line in result.stdout.splitlines() if line.startswith("  python -m")]
    assert len(examples) == 2
    for example in examples:
        assert parse_arguments(shlex.split(example)[3:]).folders
    nothing = run_report(cwd=tmp_path)
    assert nothing.returncode == 1 and nothing.stderr.startswith("error: ")
    assert nothing.stderr.endswith("; see --help\n") and nothing.stderr.count("\n") == 1
