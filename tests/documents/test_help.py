"""`bash tools/train.sh --help` explains every option, and its examples run as they stand."""
import re
import subprocess

import pytest

from projects.MAE.train_net import parse_arguments
from tests.documents import pages
from tests.documents.workplace import Workplace, check_at_full_size
from tests.support.command import ROOT


@pytest.fixture(scope="module")
def told():
    return subprocess.check_output(["bash", ROOT / "tools/train.sh", "--help"], text=True)


def examples(told):
    """The commands of the help, each on one line."""
    return pages.commands(f"```bash\n{told[told.index('examples:') + len('examples:') :]}```\n")


def test_every_option_is_explained(told, monkeypatch):
    from libai import config

    made, make = [], config.default_argument_parser
    monkeypatch.setattr(config, "default_argument_parser", lambda: made.append(make()) or made[-1])
    parse_arguments([])
    options = {option for action in made[0]._actions for option in action.option_strings}
    assert "--knn" in options and "--resume" in options
    explained = set(re.findall(r"^  (-[-\w]+)(?:, (-[-\w]+))?  +\S.{10}", told, re.M))
    assert options == {option for pair in explained for option in pair if option}
    shown = set(re.findall(r"(?<![-\w])--?[a-z][-a-z]*", told))
    assert shown <= options
    assert max(map(len, told.splitlines())) <= 100


def test_the_examples_run(told, image_folder, tmp_path):
    workplace = Workplace(tmp_path, image_folder)
    for command in examples(told):
        check_at_full_size(command.text, workplace.folder)
        status, output = workplace.run(command.text)
        assert status == 0, f"{command.text}\n{output}"
    assert (tmp_path / "output/mae_finetune/evaluation.json").exists()
