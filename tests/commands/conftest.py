"""What the tests of extracted features share."""
import pytest

from tests.commands.weights import write_weights


@pytest.fixture(scope="module")
def weights(golden, tmp_path_factory):
    return write_weights(golden, "mean", tmp_path_factory.mktemp("weights") / "vit")


@pytest.fixture
def command(weights, image_folder, tmp_path):
    """The command's arguments, without options: 9 images in 3 classes."""
    images = image_folder / "val"
    return ["--weights", weights, "--images", images, "--out", tmp_path / "out.npz"]
