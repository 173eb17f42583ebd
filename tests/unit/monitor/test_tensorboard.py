"""TensorBoard itself shows what a run writes for it."""
import json
import os
import re
import signal
import subprocess
import sys
import time
import urllib.request

import numpy as np
import pytest

from projects.MAE.monitor.tensorboard import TensorBoard

SECONDS = 60  # to start, and to read the files
RUN = "run/tensorboard"


@pytest.fixture
def server(tmp_path):
    """The address of a TensorBoard that shows what a run wrote, with a resumed part."""
    pytest.importorskip("tensorboard", reason="TensorBoard is not installed: bash tools/setup.sh viz")
    for start_iter, losses in [(0, {1: 3.0, 2: 9.0}), (1, {2: 2.0})]:
        writer = TensorBoard(str(tmp_path / RUN), start_iter)
        for iteration, loss in losses.items():
            writer.scalars("train", iteration, {"total_loss": loss})
        writer.image("reconstructions", np.zeros((8, 8, 3), np.uint8), 2)
        writer.close()
        time.sleep(1.1)  # files are named by the second, and read in the order of their names
    arguments = ["--logdir", tmp_path, "--host", "127.0.0.1", "--port", "0", "--load_fast=false"]
    with open(tmp_path / "said", "wb") as said:
        process = subprocess.Popen(
            [sys.executable, "-m", "tensorboard.main", *map(str, arguments)],
            stdout=said,
            stderr=subprocess.STDOUT,
            env=dict(os.environ, LD_PRELOAD=""),
            start_new_session=True,
        )
    try:
        yield wait_for(lambda: address_in(tmp_path / "said"))
    finally:
        os.killpg(process.pid, signal.SIGKILL)
        process.wait()


def address_in(path):
    found = re.search(r"http://127\.0\.0\.1:\d+/", path.read_text())
    return found and found.group()


def wait_for(function):
    """The first result that is true."""
    end = time.monotonic() + SECONDS
    while time.monotonic() < end:
        result = function()
        if result:
            return result
        time.sleep(0.2)
    raise AssertionError(f"nothing after {SECONDS} seconds")


def fetch(address):
    with urllib.request.urlopen(address, timeout=SECONDS) as answer:
        return json.load(answer)


def test_it_shows_scalars_and_pictures(server):
    tags = wait_for(lambda: fetch(f"{server}data/plugin/scalars/tags").get(RUN))
    assert set(tags) == {"train/total_loss"}
    query = f"run={RUN}&tag=train/total_loss"

    def losses():
        points = fetch(f"{server}data/plugin/scalars/scalars?{query}")
        return {step: value for _, step, value in points}

    # The figure of a broken-off part has given way to that of the resumed one.
    assert wait_for(lambda: losses() == {1: 3.0, 2: 2.0})
    assert set(fetch(f"{server}data/plugin/images/tags")[RUN]) == {"reconstructions"}
