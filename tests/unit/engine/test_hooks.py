"""When evaluation and checkpoints are due, and how steps are timed."""
import pytest

from projects.MAE.engine.hooks import due
from projects.MAE.monitor.bar import duration
from projects.MAE.monitor.progress import StepClock, whole_or_short


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


def test_the_speed_is_that_of_the_latest_steps_without_the_first(monkeypatch):
    now = [0.0]
    monkeypatch.setattr("time.perf_counter", lambda: now[0])
    clock, rates = StepClock(window=2), []
    for step, between in [(100.0, 0.0), (2.0, 50.0), (4.0, 0.0), (6.0, 9.0)]:
        clock.before_step()
        now[0] += step
        clock.after_step()
        now[0] += between  # evaluating, say
        rates.append(clock.rate(images_per_step=12))
    assert rates == [12 / 100, 12 / 2, 24 / 6, 24 / 10] and clock.steps == 4


def test_texts_of_numbers():
    durations = [duration(seconds) for seconds in (0, 59.6, 3725, 90061)]
    assert durations == ["0:00:00", "0:01:00", "1:02:05", "1 day, 1:01:01"]
    numbers = [whole_or_short(number) for number in (0.041, 1.23, 12.6, 1234.5)]
    assert numbers == ["0.041", "1.2", "13", "1,234"]
