"""A run that is killed and resumed ends with the bits of one that was not.

tests/soak/kill_resume.py does the same with many kills.
"""
import pytest

from tests.support.kills import kill_and_resume


@pytest.mark.parametrize("job, ranks, seed", [("pretraining", 2, 1), ("finetuning", 1, 2)])
def test_nothing_is_lost(image_folder, tmp_path, job, ranks, seed):
    settings = ["model.num_classes=3"] if job == "finetuning" else []
    found = kill_and_resume(job, ranks, image_folder, tmp_path, range(2), seed, settings=settings)
    assert found["kills"] and found["differing"] == []
