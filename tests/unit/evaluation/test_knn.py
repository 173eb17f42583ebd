"""The k-NN probe's parts against NumPy on whole arrays."""
import numpy as np
import pytest

from projects.MAE.evaluation import knn


@pytest.fixture
def features():
    """60 training rows and 25 queries of length 1, and the training labels."""
    rng = np.random.default_rng(0)
    rows = knn.unit(rng.standard_normal((85, 6)).astype(np.float32))
    return rows[:60], rows[60:], rng.integers(0, 4, 60)


def whole(train, queries, k):
    """Indices of the k nearest, best first, from all similarities at once."""
    return np.argsort(-(queries @ train.T), axis=1)[:, :k]


@pytest.mark.parametrize("ranks", [1, 3, 7, 80])
@pytest.mark.parametrize("chunk", [1, 200, 1 << 22])
def test_shares_and_chunks_find_the_nearest(features, ranks, chunk, monkeypatch):
    monkeypatch.setattr(knn, "CHUNK", chunk)
    train, queries, _ = features
    found = []
    for rank in range(ranks):
        bank = knn.Bank(len(train), rank, ranks)
        for first in range(0, 60, 8):
            bank.add(train[first : first + 8], first)
        assert bank.filled == len(bank.features) == len(range(rank, 60, ranks))
        found.append(bank.nearest(queries, 5))
    similarities, indices = knn.best(*zip(*found), 5)
    expected = whole(train, queries, 5)
    np.testing.assert_array_equal(np.sort(indices), np.sort(expected))
    np.testing.assert_allclose(
        np.sort(similarities), np.sort(np.take_along_axis(queries @ train.T, expected, 1)), atol=1e-6
    )


def test_votes_are_weighted_by_similarity(features):
    train, queries, labels = features
    indices = whole(train, queries, 5)
    similarities = np.take_along_axis(queries @ train.T, indices, 1)
    scores = knn.vote(similarities, labels[indices], 4, temperature=0.5)
    for row in range(len(queries)):
        for label in range(4):
            neighbours = [i for i in indices[row] if labels[i] == label]
            expected = sum(np.exp(queries[row] @ train[i] / 0.5) for i in neighbours)
            assert scores[row, label] == pytest.approx(expected, rel=1e-5)


def test_a_class_without_a_vote_is_no_hit():
    scores = np.array([[0.0, 3.0, 1.0, 0.0], [0.0, 3.0, 1.0, 0.0], [0.0, 3.0, 1.0, 0.0]])
    assert knn.hits(scores, np.array([1, 2, 0]), topk=(1, 4)) == [1, 2]


def test_missing_rows_have_no_say():
    scores = knn.vote(np.array([[0.5, -np.inf]], np.float32), np.array([[2, 1]]), 3, 0.07)
    assert scores[0, 2] > 0 and scores[0, 1] == 0
