"""What the tests of whole runs share."""
import pytest

from tests.support.command import pretrain


@pytest.fixture(scope="package")
def pretrained(image_folder, tmp_path_factory):
    """The output folder of a pretraining run of 4 iterations on one rank, for no test to write into."""
    folder = tmp_path_factory.mktemp("pretrained")
    pretrain(image_folder, folder)
    return folder
