"""Shared by all tests: the golden vectors and a one-rank world on the CPU."""
import os
import shutil
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from tests.support.needs import CXX

DATA = Path(__file__).parent / "golden"
# Those that take minutes, see pytest_collection_modifyitems.
LONG = ("test_layouts", "test_quickstart", "test_documents", "test_probes", "test_main_job", "test_setup")


def pytest_configure(config):
    """xdist would give the files with few tests out last, those of whole runs among them."""
    config.option.loadscopereorder = False


def pytest_collection_modifyitems(items):
    """Where processes share the tests, the long files come first, and single functions last."""

    def place(item):
        is_unit = "unit" in item.path.parts
        return LONG.index(item.path.stem) if item.path.stem in LONG else len(LONG) + is_unit

    items.sort(key=place)


def load_golden(name):
    """A golden file of tests/golden as {key: array}."""
    with np.load(DATA / f"{name}.npz") as file:
        return {key: file[key] for key in file.files}


@pytest.fixture(scope="session")
def golden():
    return load_golden


@pytest.fixture(scope="session", autouse=True)
def own_caches(tmp_path_factory):
    """The tests, and the commands they run, leave the user's cache folder alone."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("XDG_CACHE_HOME", str(tmp_path_factory.mktemp("caches")))
        yield


@pytest.fixture(scope="session", autouse=True)
def cpu_world():
    """One rank on the CPU, as `train_net.py` sets it up."""
    from projects.MAE.runtime.compat import set_up_ranks

    set_up_ranks("cpu")


@pytest.fixture(scope="session")
def native_kernels():
    """The native kernels, loaded. Where they can be built and were not, the test fails."""
    from projects.MAE.runtime import native

    if os.environ.get("MAE_NATIVE") == "0":
        pytest.skip("MAE_NATIVE=0 asks for no native kernels")
    if shutil.which(CXX) is None:
        pytest.skip("there is no C++ compiler to build the native kernels")
    assert native.load(), "the native kernels were not built: see what tools/setup.sh says"


@pytest.fixture(scope="session")
def image_folder(tmp_path_factory):
    """A folder in the ImageNet layout: 3 classes of JPEG files, 10 each to train, 3 to validate."""
    root = tmp_path_factory.mktemp("images")
    rng = np.random.default_rng(0)
    for split, count in (("train", 10), ("val", 3)):
        for label in range(3):
            folder = root / split / f"class{label}"
            folder.mkdir(parents=True)
            for i in range(count):
                pixels = rng.integers(0, 256, (36, 44, 3), dtype=np.uint8)
                pixels[:, :, label] = 255
                Image.fromarray(pixels).save(folder / f"{i}.jpg")
    return root
