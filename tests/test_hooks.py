"""When evaluation and checkpoints are due."""
import pytest

from projects.MAE.hooks import due


def iterations(rule, total):
    return [done for done in range(1, total + 1) if rule(done)]


def test_periods_in_iterations():
    assert iterations(due(3, None, 100, 10), 10) == [3, 6, 9]
    assert iterations(due(0, None, 100, 10), 10) == []
    assert iterations(due(None, None, 100, 10), 10) == []


@pytest.mark.parametrize("batch", [7, 10, 128, 300])
def test_an_epoch_ends_with_the_iteration_that_takes_its_last_sample(batch):
    samples = 1437
    found = iterations(due(5, 2, samples, batch), 200)
    expected = [-(-2 * k * samples // batch) for k in range(1, 1000)]
    assert found == [i for i in expected if i <= 200]


def test_part_of_an_epoch():
    assert iterations(due(None, 0.5, 100, 10), 20) == [5, 10, 15, 20]
