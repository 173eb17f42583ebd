"""Losses that are not finite: what is named, what is left out, what stays."""
import numpy as np
import pytest

from projects.MAE.checkpoint.reader import read_weights
from tests.support.command import TINY, TINY_DECODER, must_train, train
from tests.support.runs import metrics

CONFIG = "../../../tests/support/poisoned_pretraining.py"
# 30 images in batches of 8: the poisoned one is in one of the first four, and in one of the next.
SETTINGS = [*TINY, *TINY_DECODER, "train.checkpointer.period=1", "train.train_iter=4"]
SETTINGS += ["train.evaluation.enabled=False", "train.warmup_epoch=0"]


def settings(data, folder):
    return [*SETTINGS, f"dataloader.train.dataset.0.root={data}", f"train.output_dir={folder}"]


def weights(folder, iteration):
    return read_weights(folder / f"model_{iteration - 1:07d}")


def same(first, second):
    return all(np.array_equal(first[name], second[name]) for name in first)


@pytest.fixture(scope="module")
def skipped_in_graph_mode(image_folder, tmp_path_factory):
    """A run on one rank, and which of its iterations is bad."""
    folder = tmp_path_factory.mktemp("skipped")
    output = must_train(CONFIG, *settings(image_folder, folder), "train.max_bad_batches=1")
    (line,) = [line for line in output.splitlines() if "this update is left out" in line]
    return folder, int(line.split("at iteration ")[1].split(":")[0])


def test_the_update_of_a_bad_batch_does_not_happen(skipped_in_graph_mode):
    folder, bad = skipped_in_graph_mode
    assert bad > 1, "choose another image: the first iteration has no weights to compare with"
    for iteration in range(2, 5):
        unchanged = same(weights(folder, iteration - 1), weights(folder, iteration))
        assert unchanged == (iteration == bad)
    lines = metrics(folder)
    assert [not np.isfinite(line["total_loss"]) for line in lines] == [
        line["iteration"] == bad for line in lines
    ]


LAYOUTS = [
    (1, ["graph.enabled=False"]),
    (1, ["train.num_accumulation_steps=2"]),
    (2, []),
    (4, ["train.dist.tensor_parallel_size=2", "train.dist.pipeline_parallel_size=2"]),
    (2, ["graph.enabled=False", "train.dist.pipeline_parallel_size=2"]),
]


@pytest.mark.parametrize("ranks, layout", LAYOUTS)
def test_every_layout_leaves_out_the_same_update(
    image_folder, skipped_in_graph_mode, tmp_path, ranks, layout
):
    arguments = [*settings(image_folder, tmp_path), "train.max_bad_batches=1", *layout]
    must_train(CONFIG, *arguments, ranks=ranks)
    folder, bad = skipped_in_graph_mode
    assert same(weights(tmp_path, bad - 1), weights(tmp_path, bad))
    expected, actual = weights(folder, 4), weights(tmp_path, 4)
    for name in expected:
        if not name.endswith("query_key_value.bias"):  # of keys, whose gradient is rounding alone
            distance = np.linalg.norm(actual[name] - expected[name])
            assert distance <= 1e-4 * np.linalg.norm(expected[name]), name


@pytest.mark.parametrize("ranks", [1, 2])
def test_a_bad_loss_ends_the_run_and_names_the_last_good_checkpoint(
    image_folder, skipped_in_graph_mode, tmp_path, ranks
):
    _, bad = skipped_in_graph_mode
    result = train(CONFIG, *settings(image_folder, tmp_path), ranks=ranks)
    assert result.returncode == 1 and "Traceback" not in result.stdout, result.stdout
    (line,) = [line for line in result.stdout.splitlines() if line.startswith("error: ")]
    assert f"Loss became infinite or NaN at iteration {bad}; the last good checkpoint is" in line
    assert f"{tmp_path}/model_{bad - 2:07d}: go on from it with --resume" in line
    assert not (tmp_path / f"model_{bad - 1:07d}").exists()
    assert all(np.isfinite(array).all() for array in weights(tmp_path, bad - 1).values())


def test_bad_weights_are_not_saved(image_folder, tmp_path):
    arguments = [*settings(image_folder, tmp_path), "optim.lr=1e38"]
    result = train("quickstart_pretraining.py", *arguments)
    assert result.returncode == 1, result.stdout
    saved = [path.name for path in tmp_path.glob("model_0*")]
    for name in saved:
        arrays = read_weights(tmp_path / name).values()
        assert all(np.isfinite(array).all() for array in arrays), name
    assert "became infinite or NaN at iteration" in result.stdout


def test_resuming_with_and_without_the_option(image_folder, tmp_path):
    arguments = settings(image_folder, tmp_path)
    for option, iterations in ((0, 1), (1, 2), (0, 3)):
        must_train(
            "quickstart_pretraining.py",
            *arguments,
            f"train.max_bad_batches={option}",
            f"train.train_iter={iterations}",
            "--resume",
        )
    assert [line["iteration"] for line in metrics(tmp_path)] == [1, 2, 3]


def test_a_bad_batch_leaves_no_trace_in_a_probes_statistics(image_folder, tmp_path):
    probe = [s for s in SETTINGS if s not in TINY_DECODER and not s.startswith("optim.")]
    output = must_train(
        "../../../tests/support/poisoned_probe.py",
        *probe,
        "model.num_classes=3",
        "finetune.enable=False",
        f"dataloader.train.dataset.0.root={image_folder}",
        f"train.output_dir={tmp_path}",
        "train.max_bad_batches=1",
    )
    assert output.count("this update is left out") == 1
    for array in weights(tmp_path, 4).values():
        assert np.isfinite(array).all()
