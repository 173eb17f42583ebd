"""Arrays on their way from one process to another."""
import os
import pickle
import time
from multiprocessing.reduction import ForkingPickler

import numpy as np

from projects.MAE.data.shared_arrays import SharedArrays


def sent(arrays):
    return pickle.loads(ForkingPickler.dumps(arrays))


def samples(count):
    return [dict(x=np.full((2, 3), i, np.float32), y=np.int64(i)) for i in range(count)]


def test_samples_are_stacked_and_arrive():
    batch = SharedArrays.stack(5, iter(samples(5)))
    assert batch["x"].shape == (5, 2, 3) and batch["x"].dtype == np.float32
    arrived = sent(batch)
    np.testing.assert_array_equal(arrived["y"], range(5))
    np.testing.assert_array_equal(arrived["x"][:, 1, 2], range(5))


def test_an_array_that_was_replaced_arrives_too():
    batch = SharedArrays.stack(2, samples(2))
    batch["x"] += 1
    batch["y"] = np.ones((2, 4), np.float32)
    arrived = sent(batch)
    np.testing.assert_array_equal(arrived["y"], batch["y"])
    np.testing.assert_array_equal(arrived["x"][:, 0, 0], [1, 2])


def test_memory_is_given_back():
    def handles():
        return len(os.listdir("/proc/self/fd"))

    sent(SharedArrays(x=np.zeros(3)))  # starts what hands over file descriptors
    before = handles()
    for _ in range(20):
        sent(SharedArrays(x=np.zeros(3)))
    # The thread that hands them over closes its ends after they have arrived.
    patience = 50
    while handles() > before + 1 and patience:
        time.sleep(0.1)
        patience -= 1
    assert handles() <= before + 1
