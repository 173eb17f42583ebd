"""Checkpoints for the tests of this folder."""
import shutil

import pytest

from tests.support.checkpoints import trained


@pytest.fixture(scope="module")
def saved(tmp_path_factory):
    """An output folder with three checkpoints, after 1, 2 and 3 iterations; eager mode."""
    folder = tmp_path_factory.mktemp("saved")
    checkpointer = trained(folder, False)
    for i in range(3):
        checkpointer.save(f"model_{i:07d}", iteration=i + 1)
        checkpointer.tag_last_checkpoint(f"model_{i:07d}")
    return folder


@pytest.fixture
def folder(saved, tmp_path):
    """A copy that a test may break."""
    return shutil.copytree(saved, tmp_path / "run")
