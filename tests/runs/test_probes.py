"""Linear probing and --knn through tools/train.sh, on tiny models and several layouts."""
import json
import shutil

import numpy as np
import oneflow as flow
import pytest
from libai.config import instantiate
from PIL import Image
from sklearn.datasets import load_digits

from projects.MAE import convert_weights, load_encoder, predict, visualize
from projects.MAE.checkpoint.names import find_checkpoint
from projects.MAE.checkpoint.reader import read_card, read_weights
from projects.MAE.data.sampler import SampleKey
from projects.MAE.errors import UserError
from projects.MAE.evaluation.knn import check_knn
from projects.MAE.modeling.global_tensors import batch_sbp
from projects.MAE.modeling.linear_probe import LinearProbe
from projects.MAE.modeling.vit import VisionTransformer
from projects.MAE.settings.check_together import check_settings
from projects.MAE.settings.load import load_config
from projects.MAE.weights.pretrained import load_pretrained
from projects.MAE.weights.write import write_libai
from tests.support.command import (
    CONFIGS,
    ROOT,
    TINY,
    environment,
    must_train,
    pretrain,
    train,
    train_command,
)
from tests.commands.process import refused, succeed
from tests.support.runs import assert_same_weights, losses, metrics
from tests.support.terminal import frames, on_terminal

# Two blocks, for two pipeline stages.
TINY_PROBE = [s for s in TINY if not s.startswith("optim.")]
TINY_PROBE += ["model.global_pool=False", "model.depth=2"]
SIZES = dict(img_size=24, patch_size=4, embed_dim=32, depth=2, num_heads=4, num_classes=3)
STATISTICS = ["feature_norm.running_mean", "feature_norm.running_var"]


def settings_of(data, output, *arguments):
    folders = [f"dataloader.train.dataset.0.root={data}", f"train.output_dir={output}"]
    return [*TINY_PROBE, *folders, *arguments]


def probe(data, output, *arguments, **options):
    """A tiny run of linear probing or --knn."""
    return must_train("quickstart_linprobe.py", *settings_of(data, output, *arguments), **options)


@pytest.fixture(scope="module")
def pretrained(image_folder, tmp_path_factory):
    """The output folder of a pretraining run of two blocks."""
    folder = tmp_path_factory.mktemp("pretrained")
    pretrain(image_folder, folder, "model.depth=2")
    return folder


@pytest.fixture(scope="module")
def settings(pretrained):
    return [f"finetune.path={pretrained}", "model.num_classes=3"]


@pytest.fixture(scope="module")
def probed(image_folder, settings, tmp_path_factory):
    """A probe trained for 4 iterations on one rank, with a checkpoint in the middle."""
    folder = tmp_path_factory.mktemp("probed")
    output = probe(image_folder, folder, *settings, "train.checkpointer.period=2")
    return folder, output


def test_the_encoder_stays_and_the_head_is_new(pretrained, probed):
    folder, output = probed
    assert "New, with initial values: head.weight, head.bias, " + ", ".join(STATISTICS) in output
    before, after = (read_weights(find_checkpoint(path)) for path in (pretrained, folder))
    trained = {"head.weight", "head.bias", *STATISTICS}
    assert trained <= set(after) and read_card(find_checkpoint(folder))["model"] == "LinearProbe"
    for name in set(after) - trained:
        np.testing.assert_array_equal(after[name], before[name])
    assert after["feature_norm.running_mean"].any()
    assert len(losses(folder)) == 4 and np.isfinite(losses(folder)).all()


@pytest.mark.parametrize(
    "ranks, layout",
    [
        (2, ["train.num_accumulation_steps=2"]),
        (2, ["train.dist.tensor_parallel_size=2"]),
        (4, ["train.dist.pipeline_parallel_size=2"]),
    ],
)
def test_every_layout_is_the_same_run(image_folder, settings, probed, tmp_path, ranks, layout):
    probe(image_folder, tmp_path, *settings, *layout, ranks=ranks)
    np.testing.assert_allclose(losses(tmp_path), losses(probed[0]), rtol=1e-5)
    assert_same_weights(tmp_path, probed[0], rtol=1e-4)
    accuracy = [[line["Acc@1"] for line in metrics(f) if "Acc@1" in line] for f in (tmp_path, probed[0])]
    assert accuracy[0] == accuracy[1]


def test_resuming_continues_the_run(image_folder, settings, probed, tmp_path):
    shutil.copytree(probed[0], tmp_path, dirs_exist_ok=True, symlinks=True)
    # As if the run had been killed after its first checkpoint.
    (tmp_path / "last_checkpoint").write_text("model_0000001")
    (tmp_path / "metrics.json").unlink()
    probe(image_folder, tmp_path, *settings, "train.checkpointer.period=2", "--resume")
    assert losses(tmp_path) == losses(probed[0])[2:]
    assert_same_weights(tmp_path, probed[0])


@pytest.mark.parametrize("key", ["train.load_weight", "finetune.path"])
def test_eval_only_gives_the_numbers_of_the_run(image_folder, probed, tmp_path, key):
    folder = probed[0]
    arguments = [f"{key}={folder}", "model.num_classes=3", "--eval-only"]
    probe(image_folder, tmp_path, *arguments, ranks=2 if key == "finetune.path" else 1)
    evaluation = json.loads((tmp_path / "evaluation.json").read_text())
    last = [line for line in metrics(folder) if "Acc@1" in line][-1]
    assert evaluation == {
        **{"Acc@1": last["Acc@1"], "images": 9, "iteration": 4},  # of three classes no Acc@5
        **{"weights": find_checkpoint(folder), "data": str(image_folder / "val")},
    }


def test_a_probes_head_is_not_finetuned_without_its_norm(probed):
    """The head means nothing without the batch normalisation that it was trained behind."""
    model = VisionTransformer(**SIZES, global_pool=False)
    report = load_pretrained(model, str(probed[0]), "oneflow")
    assert report["new"] == ["head.weight", "head.bias"]
    again = LinearProbe(**SIZES)
    assert load_pretrained(again, str(probed[0]), "oneflow")["new"] == []
    weights = read_weights(find_checkpoint(probed[0]))
    for name in STATISTICS:
        np.testing.assert_array_equal(dict(again.named_buffers())[name].numpy(), weights[name])


@pytest.fixture(scope="module")
def digits(tmp_path_factory):
    """Digits in the ImageNet layout: 20 a class to train, 10 to validate."""
    root, source, counts = tmp_path_factory.mktemp("digits"), load_digits(), [0] * 10
    for pixels, label in zip(source.images, source.target):
        if counts[label] < 30:
            folder = root / ("train" if counts[label] < 20 else "val") / str(label)
            folder.mkdir(parents=True, exist_ok=True)
            Image.fromarray((pixels * 15).astype(np.uint8)).save(folder / f"{counts[label]}.png")
            counts[label] += 1
    return root


@pytest.fixture(scope="module")
def neighbours(digits, pretrained, tmp_path_factory):
    """The figures of --knn on one rank, with the tiny pretrained encoder."""
    folder = tmp_path_factory.mktemp("knn")
    output = probe(digits, folder, "--knn", f"finetune.path={pretrained}")
    assert "k-NN: Acc@1" in output
    return json.loads((folder / "knn.json").read_text())


def expected_accuracy(data, pretrained, k, temperature):
    """The probe's figure computed on all similarities at once, by loops."""
    cfg = load_config(
        str(ROOT / CONFIGS / "quickstart_linprobe.py"), settings_of(data, "unused")
    )
    model = instantiate(cfg.model)
    load_pretrained(model, str(pretrained), "oneflow")
    node = cfg.dataloader.test[0].dataset
    features, labels = [], []
    for train_split in (True, False):
        node.train = train_split
        dataset = instantiate(node)
        samples = [dataset[SampleKey(0, i, True)] for i in range(len(dataset))]
        images = flow.from_numpy(np.stack([sample["images"] for sample in samples]))
        images = images.to_global(placement=flow.placement("cpu", [0]), sbp=batch_sbp())
        rows = model.forward_features(images).numpy().astype(np.float64)
        features.append(rows / np.linalg.norm(rows, axis=1, keepdims=True))
        labels.append(np.array([int(sample["labels"]) for sample in samples]))
    correct = 0
    for row, label in zip(features[1], labels[1]):
        similarities = features[0] @ row
        votes = np.zeros(10)
        for i in np.argsort(-similarities)[:k]:
            votes[labels[0][i]] += np.exp(similarities[i] / temperature)
        correct += votes.argmax() == label
    return 100.0 * correct / len(labels[1])


def test_knn_is_what_its_definition_says(digits, pretrained, neighbours):
    assert (neighbours["train_images"], neighbours["val_images"]) == (200, 100)
    assert neighbours["Acc@1"] == expected_accuracy(digits, pretrained, k=20, temperature=0.07)
    assert 20 < neighbours["Acc@1"] < neighbours["Acc@5"] <= 100  # neither chance nor certainty


@pytest.mark.parametrize(
    "ranks, layout",
    [
        (2, ["train.dist.tensor_parallel_size=2"]),
        (4, ["train.dist.pipeline_parallel_size=2"]),
    ],
)
def test_knn_is_the_same_on_every_layout(digits, pretrained, neighbours, tmp_path, ranks, layout):
    arguments = ["--knn", f"finetune.path={pretrained}", "train.test_micro_batch_size=7", *layout]
    probe(digits, tmp_path, *arguments, ranks=ranks)
    assert json.loads((tmp_path / "knn.json").read_text()) == neighbours


def test_knn_shows_how_far_it_is(digits, pretrained, tmp_path):
    settings = settings_of(digits, tmp_path, "--knn", f"finetune.path={pretrained}")
    command = train_command("quickstart_linprobe.py", *settings, ranks=2)
    status, text = on_terminal(command, cwd=ROOT, env=environment())
    assert status == 0, text
    bars = [frame for frame in frames(text) if "%|" in frame]
    whole = {"features of the training images": 25, "neighbours of the validation images": 13}
    for what, total in whole.items():
        mine = [frame for frame in bars if f"k-NN: {what}" in frame]
        assert mine and all(f"/{total} " in frame for frame in mine), text


def test_knn_before_pretraining(digits, neighbours, tmp_path):
    probe(digits, tmp_path, "--knn", "finetune.enable=False", "train.knn.k=5")
    result = json.loads((tmp_path / "knn.json").read_text())
    assert result["weights"] == "initial weights" and result["k"] == 5
    assert result["Acc@1"] != neighbours["Acc@1"]


@pytest.mark.parametrize(
    "config, setting, message",
    [
        ("quickstart_pretraining.py", "train.seed=0", "--knn needs a configuration with labels"),
        ("quickstart_linprobe.py", "train.knn.k=0", "train.knn.k=0 must be a whole number"),
        ("quickstart_linprobe.py", "train.knn.temperature=0", "train.knn.temperature=0 must be"),
    ],
)
def test_settings_of_knn_are_checked_first(config, setting, message):
    cfg = load_config(str(ROOT / CONFIGS / config), [setting])
    with pytest.raises(UserError, match=message):
        check_settings(cfg, eval_only=True, may_be_random=True)
        check_knn(cfg)


def test_a_probe_is_no_plain_vit_to_convert(probed, tmp_path):
    arguments = convert_weights.parse_arguments([str(probed[0]), str(tmp_path / "x"), "--to", "timm"])
    with pytest.raises(UserError, match="a linear probe"):
        convert_weights.convert(arguments)


@pytest.fixture(scope="module")
def mean_probed(image_folder, settings, tmp_path_factory):
    """A probe of the mean of the patches that tells the classes apart: so many iterations does it take
    until the running statistics have forgotten their first values."""
    folder = tmp_path_factory.mktemp("mean_probed")
    more = ["model.global_pool=True", "train.train_iter=120", "train.base_lr=1000"]
    probe(image_folder, folder, *settings, *more)
    return folder


@pytest.mark.parametrize("run", ["probed", "mean_probed"])
def test_predict_gives_the_accuracy_of_the_run(image_folder, run, request, capsys):
    folder = request.getfixturevalue(run)
    folder = folder[0] if isinstance(folder, tuple) else folder
    said = succeed(capsys, predict.main, "--weights", folder, image_folder / "val", "--json")
    told = json.loads(said)
    right = [item["image"].split("/")[-2] == item["predictions"][0]["class"] for item in told]
    last = [line["Acc@1"] for line in metrics(folder) if "Acc@1" in line][-1]
    assert len(told) == 9 and 100 * sum(right) / 9 == pytest.approx(last)
    assert run == "probed" or last > 60  # of three classes


def test_predict_is_the_encoder_the_normalisation_and_the_head(image_folder, pretrained, probed, capsys):
    files = sorted((image_folder / "val").rglob("*.jpg"))
    said = succeed(capsys, predict.main, "--weights", probed[0], *files, "-k", 3, "--json")
    features = load_encoder(probed[0])(files)
    # The probe leaves the encoder as it was, and looks at what is its features by default.
    np.testing.assert_array_equal(features, load_encoder(pretrained)(files))
    weights = read_weights(find_checkpoint(probed[0]))
    mean, variance = (weights[name] for name in STATISTICS)
    rows = (features - mean) / np.sqrt(variance + 1e-6)
    logits = (rows @ weights["head.weight"] + weights["head.bias"]).astype(np.float64)
    expected = np.exp(logits) / np.exp(logits).sum(axis=1, keepdims=True)
    for row, item in zip(expected, json.loads(said)):
        found = {p["index"]: p["probability"] for p in item["predictions"]}
        np.testing.assert_allclose([found[i] for i in range(3)], row, rtol=1e-4)


def test_a_probe_of_the_mean_gives_the_mean_as_features(image_folder, pretrained, mean_probed):
    files = sorted((image_folder / "val").rglob("*.jpg"))
    encoder = load_encoder(mean_probed)
    assert encoder.default_features == "mean" and encoder.saved.sizes.parts == "probe"
    tokens = encoder(files, features="all")
    rows = tokens[:, 1:].mean(axis=1)
    norm = (rows - rows.mean(axis=1, keepdims=True)) / np.sqrt(rows.var(axis=1, keepdims=True) + 1e-6)
    np.testing.assert_allclose(encoder(files), norm, atol=1e-4)  # behind a LayerNorm that is new


def test_a_probe_without_its_normalisation_is_no_classifier(image_folder, probed, tmp_path, capsys):
    weights = read_weights(find_checkpoint(probed[0]))
    weights["feature_norm.running_var"][0] = -1
    write_libai(str(tmp_path / "negative"), weights, dict(num_heads=4))
    error = refused(capsys, predict.main, "--weights", tmp_path / "negative", image_folder / "val")
    assert "feature_norm.running_var is a variance" in error
    del weights["feature_norm.running_var"]
    write_libai(str(tmp_path / "half"), weights, dict(num_heads=4))
    error = refused(capsys, predict.main, "--weights", tmp_path / "half", image_folder / "val")
    assert "the tensor feature_norm.running_var is missing" in error
    error = refused(capsys, visualize.main, "--weights", probed[0], "--out", tmp_path / "grid.png")
    assert "a linear probe without a decoder" in error


def test_a_mistake_ends_with_one_line(image_folder, tmp_path):
    arguments = ["finetune.enable=False", "model.num_classes=3", "--knn", "train.knn.k=31"]
    result = train("quickstart_linprobe.py", *settings_of(image_folder, tmp_path, *arguments))
    assert result.returncode == 1
    assert "error: train.knn.k=31 is more than the 30 training images" in result.stdout
    assert result.stdout.count("error: ") == 1 and "Traceback" not in result.stdout
