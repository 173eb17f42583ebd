"""What a data set raises is one line, whatever it is, in a worker and in the training process."""
import pytest

from projects.MAE.data.workers import read_ahead
from projects.MAE.errors import UserError


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
    "empty": (lambda: MemoryError(), "MemoryError"),
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
