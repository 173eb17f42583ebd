"""What a person sees of a run: a live bar on a terminal, plain lines in a file, and no noise."""
import re

import pytest

from tests.support.command import TINY, TINY_DECODER, environment, pretrain, train_command
from tests.support.terminal import frames, on_terminal

STAMP = r"\[\d\d/\d\d \d\d:\d\d:\d\d\] "
LINE = (
    STAMP + r"iteration (\d+)/4  epoch (\d\.\d)/1\.1  loss \d\.\d{4}  rate \d\.\d{3}e[+-]\d\d  "
    r"[\d,.]+ images/s  (\d+:\d\d:\d\d|\?) left  memory \d\.\d\d GB"
)
BAR = (
    r" *(\d+)%\|.*\| (\d)/4 loss \d\.\d{4}, rate \d\.\de[+-]\d\d, [\d,.]+ images/s, "
    r"(\d+:\d\d:\d\d|\?) left, \d\.\d\d GB"
)


@pytest.fixture(scope="module")
def written(image_folder, tmp_path_factory):
    """Output and log.txt of a run on two ranks without a terminal, with a resumed part."""
    folder = tmp_path_factory.mktemp("run")
    settings = ["train.warmup_epoch=0", "train.checkpointer.period=2"]
    first = pretrain(image_folder, folder, *settings, ranks=2)
    (folder / "last_checkpoint").write_text("model_0000001")
    second = pretrain(image_folder, folder, *settings, "--resume", ranks=2)
    return first, second, (folder / "log.txt").read_text()


def test_a_file_gets_a_line_an_iteration(written):
    first, second, log = written
    assert [m[1] for m in re.finditer(LINE, first)] == ["1", "2", "3", "4"], first
    assert [m[1] for m in re.finditer(LINE, second)] == ["3", "4"], second
    assert [m[2] for m in re.finditer(LINE, second)] == ["0.8", "1.1"]
    assert [m[1] for m in re.finditer(LINE, log)] == ["1", "2", "3", "4", "3", "4"]


def test_every_line_of_a_file_is_calm(written):
    first, second, log = written
    for line in (first + second + log).splitlines():
        assert re.match(STAMP, line), f"not of the log: {line!r}"
        assert "\x1b" not in line and "warn" not in line.lower(), line
    assert first + second == log  # the same on the screen and in the file
    said = re.findall(STAMP + "(.*)", first)
    assert len(set(said)) == len(said), first


def test_the_first_step_shows_that_it_is_alive(written):
    first, _, _ = written
    compiling = first.index("Compiling the training graph\n")
    assert compiling < re.search(r"First step done after \d+\.\d s", first).start()
    assert first.index("First step done") < first.index("iteration 1/4")


def test_a_terminal_gets_a_live_bar(image_folder, tmp_path):
    root = f"dataloader.train.dataset.0.root={image_folder}"
    command = train_command(
        "quickstart_pretraining.py", *TINY, *TINY_DECODER, root, f"train.output_dir={tmp_path}"
    )
    status, text = on_terminal(command, columns=120, env=environment())
    assert status == 0, text
    seen = frames(text)
    bars = [re.fullmatch(BAR, frame) for frame in seen]
    assert [bar[1] for bar in bars if bar][-1] == "100", text
    assert [bar[2] for bar in bars if bar][-1] == "4", text
    assert re.search(r"0%\|.*\| 0/4 Compiling the training graph, \d+ s", text)
    assert any(re.match(STAMP + "Saved checkpoint", frame) for frame in seen), text
    assert not re.search(LINE, text), "the bar and a line say the same"
    assert len(re.findall(LINE, (tmp_path / "log.txt").read_text())) == 4
    # Whatever is longer than the terminal is wide breaks the line, and the bar with it.
    assert all(len(frame) <= 120 for frame in seen if "%|" in frame), text


def test_a_narrow_terminal_cuts_the_bar(image_folder, tmp_path):
    root = f"dataloader.train.dataset.0.root={image_folder}"
    command = train_command(
        "quickstart_pretraining.py", *TINY, *TINY_DECODER, root, f"train.output_dir={tmp_path}"
    )
    status, text = on_terminal(command, columns=40, env=environment())
    assert status == 0, text
    bars = [frame for frame in frames(text) if "%|" in frame]
    assert bars and max(map(len, bars)) <= 40, text


def test_an_error_stands_below_the_bar(image_folder, tmp_path):
    root = f"dataloader.train.dataset.0.root={image_folder}"
    settings = [root, f"train.output_dir={tmp_path}", "optim.lr=1e30", "train.warmup_epoch=0"]
    command = train_command("quickstart_pretraining.py", *TINY, *TINY_DECODER, *settings)
    status, text = on_terminal(command, columns=120, env=environment())
    assert status == 1, text
    errors = [frame for frame in frames(text) if "error:" in frame]
    assert len(errors) == 1 and errors[0].startswith("error: Loss became infinite or NaN"), text
