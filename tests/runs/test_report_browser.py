"""The report in a real browser: everything is drawn, nothing is complained about or fetched."""
import re
import shutil
import subprocess

import numpy as np
import pytest
from PIL import Image

from projects.MAE.report.save import save_report
from tests.support.folders import lines, make_evaluation, make_run

# Run in the page before it is dumped: what the browser made of it, as text.
PROBE = """<script>
addEventListener("load", () => {
  const boxes = [...document.querySelectorAll("polyline")].map(e => e.getBoundingClientRect());
  const inside = [...document.querySelectorAll(".chart")].every(chart => {
    const frame = chart.getBoundingClientRect();
    return [...chart.querySelectorAll("polyline, text, circle")].every(e => {
      const box = e.getBoundingClientRect();
      return box.left >= frame.left - 1 && box.right <= frame.right + 1
        && box.top >= frame.top - 1 && box.bottom <= frame.bottom + 1;
    });
  });
  const images = [...document.images].map(e => e.complete && e.naturalWidth);
  const said = {lines: boxes.filter(b => b.width > 50).length, of: boxes.length, inside: inside,
    images: images.join(), wide: document.documentElement.scrollWidth > innerWidth,
    colour: getComputedStyle(document.querySelector("polyline")).stroke,
    fetched: performance.getEntriesByType("resource").filter(e => !e.name.startsWith("data:")).length};
  document.body.setAttribute("data-probe", JSON.stringify(said));
});
</script>"""


@pytest.fixture(scope="module")
def browser():
    """A command that starts a headless Chromium."""
    for name in ("chromium", "chromium-browser", "google-chrome", "google-chrome-stable"):
        if shutil.which(name):
            return [name, "--headless", "--no-sandbox", "--disable-gpu", "--disable-dev-shm-usage"]
    pytest.skip("no Chromium or Chrome on this machine (Debian: apt-get install chromium)")


@pytest.fixture(scope="module")
def pages(tmp_path_factory):
    """Reports of one run and of two."""
    root = tmp_path_factory.mktemp("reports")
    long = list(lines(1, 5000, loss=3.0))
    first = make_run(root / "first", long, pictures=2)
    second = make_run(root / "second", list(lines(1, 20, loss=2.0)), pictures=1)
    for folder in (first, second):
        # Paths that no line of a narrow page has room for.
        about = dict(weights=f"/scratch/{'long/' * 20}model_best", data=f"/data/{'deep/' * 20}val")
        make_evaluation(folder, **{"Acc@1": 92.5, "Acc@5": 99.0, "images": 50000, **about})
    save_report([str(first)], root / "one.html")
    save_report([str(first), str(second)], root / "two.html")
    return root


def run_browser(browser, folder, page, *options):
    """What a browser writes to standard output, and to its log."""
    profile = folder / "profile"
    command = [*browser, f"--user-data-dir={profile}", "--enable-logging=stderr", "--v=0", *options]
    result = subprocess.run(
        [*command, f"file://{page}"], capture_output=True, text=True, timeout=300, check=True
    )
    return result.stdout, result.stderr


def probed(browser, folder, page, width):
    copy = folder / "probed.html"
    copy.write_text(page.read_text().replace("</head>", PROBE + "</head>"))
    text, log = run_browser(browser, folder, copy, "--dump-dom", f"--window-size={width},900")
    # A page's errors and warnings are lines of the log that name the console.
    assert "CONSOLE" not in log, log
    found = re.search(r'data-probe="([^"]*)"', text)
    assert found, text[:2000]
    return found[1].replace("&quot;", '"'), text


@pytest.mark.parametrize("width", [500, 1400])
@pytest.mark.parametrize("name, count, images", [("one", 4, "40,40"), ("two", 8, "40,40,40")])
def test_all_is_drawn_and_fits(browser, pages, tmp_path, name, count, images, width):
    said, text = probed(browser, tmp_path, pages / f"{name}.html", width)
    # Loss, its validation, rate and throughput of each run.
    assert f'"of":{count}' in said and '"inside":true' in said, said
    assert f'"images":"{images}"' in said and '"fetched":0' in said, said
    assert '"wide":false' in said, said  # the page itself never scrolls sideways
    assert re.search(r'"colour":"rgb\((?!0, 0, 0)', said), said
    assert text.count("<h2>") >= 5


def test_lines_are_drawn_long(browser, pages, tmp_path):
    said, _ = probed(browser, tmp_path, pages / "one.html", 1400)
    assert '"lines":4' in said, said


@pytest.mark.parametrize("scheme, darker", [("0", True), ("1", False)])
def test_light_and_dark(browser, pages, tmp_path, scheme, darker):
    picture = tmp_path / "picture.png"
    options = [f"--blink-settings=preferredColorScheme={scheme}", f"--screenshot={picture}"]
    run_browser(browser, tmp_path, pages / "one.html", *options, "--window-size=1000,800")
    pixels = np.asarray(Image.open(picture).convert("L"))
    assert (np.median(pixels) < 60) == darker and pixels.std() > 5


def test_an_error_in_a_page_would_be_seen(browser, pages, tmp_path):
    broken = tmp_path / "broken.html"
    broken.write_text((pages / "one.html").read_text().replace("</head>", "<script>oops()</script></head>"))
    _, log = run_browser(browser, tmp_path, broken, "--dump-dom")
    assert "CONSOLE" in log and "oops is not defined" in log
