"""What a run finds in its output folder and leaves alone: checkpoints that it can't go on from."""
import shutil

import pytest

from projects.MAE.errors import UserError
from projects.MAE.utils.checkpoint import open_output_folder
from tests.checkpoints import CARD_OF_RUN, newest


def content(folder):
    """{path: bytes of a file, or None} of a whole folder, but for the lock of who looked at it."""
    paths = [path for path in sorted(folder.rglob("*")) if path.name != "run.lock"]
    return {str(path): path.read_bytes() if path.is_file() else None for path in paths}


@pytest.fixture
def best_alone(folder):
    """A folder whose numbered checkpoints were deleted to free space."""
    shutil.copytree(newest(folder), folder / "model_best")
    for i in range(3):
        shutil.rmtree(folder / f"model_{i:07d}")
    (folder / "last_checkpoint").unlink()
    return folder


def test_resuming_where_only_the_best_is_left_is_refused(best_alone):
    before = content(best_alone)
    with pytest.raises(UserError) as error:
        open_output_folder(str(best_alone), True, CARD_OF_RUN)
    message = str(error.value)
    assert f"--resume: train.output_dir={best_alone} holds model_best" in message
    assert "another train.output_dir" in message and "move it away" in message
    assert f"finetune.path={best_alone / 'model_best'}" in message and "\n" not in message
    assert content(best_alone) == before
    (best_alone / "model_best").rename(best_alone / "moved away")
    assert open_output_folder(str(best_alone), True, CARD_OF_RUN) == ""
