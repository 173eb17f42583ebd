"""What a data set raises is one line, whatever it is, in a worker and in the training process."""
import os
import subprocess
import sys

import pytest

from projects.MAE.data.workers import read_ahead
from projects.MAE.errors import UserError
from tests.support.command import ROOT


class OfTwo(Exception):
    """It can be pickled, and not be unpickled."""

    def __init__(self, file, reason):
        super().__init__(f"{file}: {reason}")


class WithoutText(Exception):
    def __str__(self):
        raise RuntimeError("no text")


def holding(value):
    error = ValueError("an odd value")
    error.value = value
    return error


RAISED = {
    "plain": (lambda: ValueError("no\nnumber"), "ValueError: no\nnumber"),
    "empty": (lambda: KeyError(), "KeyError"),
    "of two": (lambda: OfTwo("a.jpg", "label 12 is unknown"), "OfTwo: a.jpg: label 12 is unknown"),
    "not to be pickled": (lambda: holding(lambda: 0), "ValueError: an odd value"),
    "without a text": (WithoutText, "WithoutText: (its text can't be made: RuntimeError)"),
    "exit": (lambda: SystemExit("the labels are missing"), "SystemExit: the labels are missing"),
    "exit with success": (lambda: SystemExit(0), "SystemExit: 0"),
}


class Raise:
    def __init__(self, kind):
        self.kind = kind

    def __call__(self, keys):
        raise RAISED[self.kind][0]()


@pytest.mark.parametrize("workers", [0, 1])
@pytest.mark.parametrize("kind", RAISED)
def test_an_exception(kind, workers):
    with pytest.raises(UserError) as caught:
        list(read_ahead(Raise(kind), [[0]], workers))
    expected = f"the data set raised {RAISED[kind][1]}: mend it; MAE_TRACEBACK=1 shows where"
    assert str(caught.value) == expected and caught.value.local


def refuse(keys):
    raise UserError("a mistake")


@pytest.mark.parametrize("workers", [0, 1])
def test_a_mistake_of_the_user_is_said_by_the_rank_that_met_it(workers):
    with pytest.raises(UserError, match="^a mistake$") as caught:
        list(read_ahead(refuse, [[0]], workers))
    assert caught.value.local


UNGUARDED = """
import os
from projects.MAE.data.workers import read_ahead
print("the script", flush=True)
print(list(read_ahead(len, [[0], [0, 1]], 2)))
"""
OWN_CLASS = """
class Own:
    def __call__(self, keys):
        return len(keys)
print("the script", flush=True)
from projects.MAE.data.workers import read_ahead
from projects.MAE.errors import UserError
from tests.support.command import ROOT
try:
    print(list(read_ahead(Own(), [[0], [0, 1]], 1)))
except UserError as error:
    print("one line:", error)
"""


@pytest.mark.parametrize("text", [UNGUARDED, OWN_CLASS])
def test_a_script_without_a_guard(tmp_path, text):
    """Its workers don't do again what it does; a class of its own is one line that says what to do."""
    (tmp_path / "script.py").write_text(text)
    environment = {**os.environ, "PYTHONPATH": str(ROOT)}
    command = [sys.executable, str(tmp_path / "script.py")]
    result = subprocess.run(command, env=environment, capture_output=True, text=True, timeout=100)
    first, second = result.stdout.splitlines()
    assert first == "the script" and result.returncode == 0, result.stderr
    if text == UNGUARDED:
        assert second == "[1, 2]" and result.stderr == ""
    else:
        assert second.startswith("one line: the data set can't be sent to worker processes")
        assert second.endswith('put what the script does under `if __name__ == "__main__":`')


def test_a_script_with_a_guard_may_bring_its_own_class(tmp_path):
    lines = "".join(f"    {line}\n" for line in OWN_CLASS.splitlines()[4:])
    own = "\n".join(OWN_CLASS.splitlines()[:4])
    (tmp_path / "script.py").write_text(f'{own}\nif __name__ == "__main__":\n{lines}')
    environment = {**os.environ, "PYTHONPATH": str(ROOT)}
    command = [sys.executable, str(tmp_path / "script.py")]
    result = subprocess.run(command, env=environment, capture_output=True, text=True, timeout=100)
    assert result.stdout.splitlines() == ["the script", "[1, 2]"], result.stderr
