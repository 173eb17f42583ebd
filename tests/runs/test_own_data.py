"""Whole runs on a data set of a user's own, the example of docs/data.md: arrays with four bands."""
import json
import shutil

import numpy as np
import pytest
from PIL import Image

from tests.documents import pages as documents
from tests.runs.test_bad_input import assert_one_error
from tests.support.command import CONFIGS, ROOT, TINY, TINY_DECODER, WORKERS, must_train, train


@pytest.fixture(scope="module")
def bands(tmp_path_factory):
    """A folder with the example's class, its configurations and data for them."""
    folder = tmp_path_factory.mktemp("bands")
    texts = [b.text for b in documents.blocks((ROOT / "docs/data.md").read_text()) if "ands" in b.text]
    module, config = (text for text in texts if "import" in text)
    shutil.copytree(ROOT / CONFIGS, folder / CONFIGS)
    (folder / "bands.py").write_text(module + "\n")
    (folder / CONFIGS / "bands.py").write_text(config + "\n")
    for kind in ("finetune", "linprobe"):
        own = config.replace("quickstart_pretraining", f"quickstart_{kind}")
        own = own.replace("import LazyCall, ", "import ").replace("labelled=False", "labelled=True")
        own = "from libai.config import LazyCall\n" + own + "\nmodel.num_classes = 3\n"
        (folder / CONFIGS / f"bands_{kind}.py").write_text(own)
    rng = np.random.default_rng(0)
    for split, count in (("train", 24), ("val", 9)):
        labels = np.arange(count) % 3
        images = rng.normal(size=(count, 4, 32, 32)).astype(np.float32) + labels[:, None, None, None]
        (folder / "output/bands").mkdir(parents=True, exist_ok=True)
        np.save(folder / f"output/bands/{split}.npy", images.astype(np.float32))
        np.save(folder / f"output/bands/{split}_labels.npy", labels)
    return folder


def run(bands, name, *settings, must=must_train, **options):
    tiny = [*TINY, *TINY_DECODER] if name == "bands.py" else TINY
    if "linprobe" in name:
        tiny = [setting for setting in tiny if "eps" not in setting]
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("PYTHONPATH", str(bands))
        file = ROOT / "projects/MAE/train_net.py"
        return must(bands / CONFIGS / name, *tiny, *settings, cwd=bands, file=file, **options)


def test_every_recipe_takes_arrays_with_four_bands(bands):
    pretrained = bands / "output/bands_pretraining"
    said = run(bands, "bands.py", *WORKERS, "train.visualize.period=2", ranks=2)
    assert "bands [0, 1, 2] as red, green and blue" in said
    with Image.open(next((pretrained / "reconstructions").glob("*.png"))) as picture:
        assert len(np.unique(np.asarray(picture))) > 50
    for kind, file, options in (("finetune", "metrics", []), ("linprobe", "knn", ["--knn"])):
        out = bands / "output" / kind
        settings = [f"train.output_dir={out}", f"finetune.path={pretrained}"]
        run(bands, f"bands_{kind}.py", *settings, *options)
        found = json.loads((out / f"{file}.json").read_text().splitlines()[-1])
        assert found["Acc@1"] > (50 if options else 0)


def test_a_class_that_workers_cannot_import_is_one_line(bands):
    text = (bands / CONFIGS / "bands.py").read_text().replace('LazyCall("bands.Bands")', "LazyCall(Bands)")
    (bands / CONFIGS / "inline.py").write_text((bands / "bands.py").read_text() + text)
    settings = [*TINY_DECODER, *WORKERS, "train.output_dir=output/inline"]
    result = run(bands, "inline.py", *settings, must=train)
    assert_one_error(result, "can't be sent to worker processes", "Bands", "num_workers=0")


def test_what_a_class_lacks_is_one_line(bands):
    other = "train.output_dir=output/other"
    result = run(bands, "bands.py", "model.in_chans=3", other, must=train)
    assert_one_error(result, "sample 0 of the data set Bands", "[4, 32, 32]", "[3, 32, 32]")


def test_a_class_for_finetuning_is_one_for_probing(bands):
    """It gives the draws of stochastic depth in training and in evaluation; a probe takes none."""
    drawn = (
        "\n\nclass Drawn(Bands):\n    def __getitem__(self, key):\n"
        "        draws = np.zeros(6, np.float32)\n"
        "        return {**super().__getitem__(key), 'drop_path_noise': draws}\n"
    )
    (bands / "drawn.py").write_text((bands / "bands.py").read_text() + drawn)
    for kind in ("finetune", "linprobe"):
        text = (bands / CONFIGS / f"bands_{kind}.py").read_text().replace("bands.Bands", "drawn.Drawn")
        (bands / CONFIGS / f"drawn_{kind}.py").write_text(text)
        settings = [f"train.output_dir=output/drawn_{kind}", "finetune.enable=False"]
        log = run(bands, f"drawn_{kind}.py", *settings, "--fast-dev-run", "model.depth=3")
        assert "Evaluation: Acc@1" in log
