"""Top-5 accuracy is measured only where there are more than five classes: else it is 100 %."""
import pytest

from projects.MAE.modeling.task import FINETUNING, PRETRAINING, telling


@pytest.mark.parametrize(
    "classes, told", [(1, [1]), (2, [1]), (5, [1]), (6, [1, 5]), (1000, [1, 5]), (None, [1, 5])]
)
def test_what_tells_something(classes, told):
    assert telling([1, 5], classes) == told
    assert FINETUNING.metrics([1, 5], classes) == [f"Acc@{k}" for k in told]
    assert PRETRAINING.metrics([1, 5], classes) == ["reconstruction_loss"]
