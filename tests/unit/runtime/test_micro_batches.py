"""Micro-batches are consecutive rows, and come together again in their order."""
import numpy as np

from projects.MAE.runtime.micro_batches import join_batch, split_batch
from tests.support.golden_models import to_global


def test_rows_are_split_in_their_order_and_joined_again():
    images = np.arange(16, dtype=np.float32).reshape(8, 2)
    parts = split_batch({"images": to_global(images)}, 4)
    found = [part["images"].numpy() for part in parts]
    np.testing.assert_array_equal(found, images.reshape(4, 2, 2))
    np.testing.assert_array_equal(join_batch([part["images"] for part in parts]).numpy(), images)
