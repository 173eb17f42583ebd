"""Batches are a function of (seed, step), whatever the layout."""
import numpy as np
import pytest

from projects.MAE.data.sampler import EvaluationBatches, TrainingStream
from projects.MAE.errors import UserError


def stream(ranks, rank, steps=7, start=0, batch=12, samples=25, seed=3):
    return list(TrainingStream(samples, batch, seed, rank, ranks, start, steps))


@pytest.mark.parametrize("ranks", [2, 3, 4])
def test_ranks_share_the_batch_of_one_rank(ranks):
    parts = [stream(ranks, rank) for rank in range(ranks)]
    for step, whole in enumerate(stream(1, 0)):
        assert sum((part[step] for part in parts), []) == whole


def test_every_epoch_is_a_permutation():
    keys = sum(stream(1, 0, steps=25), [])  # 300 keys are 12 epochs
    for epoch in range(12):
        indices = [key.index for key in keys if key.epoch == epoch]
        assert sorted(indices) == list(range(25))
    first, second = ([k.index for k in keys if k.epoch == e] for e in (0, 1))
    assert first != second


def test_a_resumed_stream_continues():
    assert stream(2, 1, start=3, steps=4) == stream(2, 1)[3:]


def test_a_batch_that_ranks_cannot_share_is_an_error():
    with pytest.raises(UserError, match="global batch size 10 cannot be shared evenly"):
        stream(3, 0, batch=10)


@pytest.mark.parametrize("samples", range(1, 18))
@pytest.mark.parametrize("ranks", [1, 2, 4])
def test_evaluation_takes_every_sample_once(samples, ranks):
    parts = [list(EvaluationBatches(samples, 3, rank, ranks)) for rank in range(ranks)]
    keys = [key for batches in zip(*parts) for batch in batches for key in batch]
    assert [key.index for key in keys if key.valid] == list(range(samples))
    assert all(len(batch) == 3 for part in parts for batch in part)


def test_randomness_depends_on_its_arguments_alone():
    from projects.MAE.data.randomness import AUGMENTATION, MASKING, sample_generator

    def draw(*arguments):
        return sample_generator(*arguments).random(4).tolist()

    assert draw(0, 1, 2, MASKING) == draw(0, 1, 2, MASKING)
    others = [(1, 1, 2, MASKING), (0, 2, 2, MASKING), (0, 1, 3, MASKING), (0, 1, 2, AUGMENTATION)]
    drawn = [draw(0, 1, 2, MASKING)] + [draw(*other) for other in others]
    assert len({tuple(values) for values in drawn}) == 5
    assert np.all(np.array(drawn) < 1)
