"""One run, any layout: on every layout the losses, the weights and the accuracy of one rank."""
import json
import shutil

import numpy as np
import pytest
from PIL import Image

from tests.support.command import finetune, pretrain
from tests.support.runs import assert_same_weights, losses, metrics

# Four blocks, for four stages. The autoencoder's have two widths, and a stage may take several.
ITERATIONS = 12
LONG = [f"train.train_iter={ITERATIONS}", "train.checkpointer.period=4"]
LONG += ["train.test_micro_batch_size=2"]
PROBE = "tests/support/layout_probe.py"  # trains as train_net.py does, and says what ranks hold
PRETRAIN = [*LONG, "model.depth=3", "model.decoder_embed_dim=16"]
CLASSIFY = ["finetune.enable=False", "model.num_classes=3", "model.drop_path_rate=0.2"]
# Gradients are clipped by the norm of all of them, and with layer decay.
FINETUNE = [*LONG, *CLASSIFY, "model.depth=4", "optim.params.clip_grad_max_norm=0.05"]
EAGER = "graph.enabled=False"
CHECKPOINTING = "train.activation_checkpoint.enabled=True"
BY_HAND = "train.dist.custom_pipeline_stage_id=[0,0,0,1]"
ACCUMULATING = [BY_HAND, "train.num_accumulation_steps=2", "dataloader.train.num_workers=1"]


def layout(tensor, pipeline):
    sizes = {"tensor_parallel_size": tensor, "pipeline_parallel_size": pipeline}
    return [f"train.dist.{key}={value}" for key, value in sizes.items()]


def run(job, data, output, *settings, **options):
    """A pretraining or finetuning run of ITERATIONS."""
    if job == "pretrain":
        return pretrain(data, output, *PRETRAIN, *settings, **options)
    return finetune(data, output, *FINETUNE, *settings, **options)


def held_in(folder, ranks):
    """What layout_probe.py has written of each rank, see its `held`."""
    return [json.loads((folder / f"rank_{rank}.json").read_text()) for rank in range(ranks)]


def assert_replicas_identical(held, data, tensor):
    """Fail unless a part of a parameter is the same wherever it is, and is where it should be.

    Args:
        held: {parameter and which part of it: checksum} of each rank.
        data, tensor: ranks of each kind in a pipeline stage. A parameter is in one stage; where it
            is split, each tensor rank holds another part.
    """
    for key in set().union(*held):
        parts = [sums[key] for sums in held if key in sums]
        assert len(parts) == (data * tensor if key.endswith("[]") else data), key
        assert len(set(parts)) == 1, key


def evaluations(folder):
    return [line for line in metrics(folder) if "total_loss" not in line]


@pytest.fixture(scope="module")
def one_rank(image_folder, tmp_path_factory):
    """{job: the output folder of its run on one rank}."""
    folders = {}
    for job in ("pretrain", "finetune"):
        folders[job] = tmp_path_factory.mktemp(job)
        run(job, image_folder, folders[job])
    return folders


@pytest.mark.parametrize(
    "job, data, tensor, pipeline, settings",
    [
        ("pretrain", 2, 2, 1, []),
        ("pretrain", 1, 1, 4, [CHECKPOINTING]),
        ("pretrain", 2, 2, 2, [CHECKPOINTING]),
        ("pretrain", 1, 2, 1, [EAGER]),
        ("finetune", 1, 1, 1, [EAGER]),
        ("finetune", 2, 1, 1, [EAGER, "train.num_accumulation_steps=2"]),
        ("finetune", 1, 4, 1, []),
        ("finetune", 2, 1, 2, [*ACCUMULATING, CHECKPOINTING]),
        ("finetune", 1, 2, 2, [EAGER]),
    ],
)
def test_layout_is_the_run_of_one_rank(
    image_folder, one_rank, tmp_path, job, data, tensor, pipeline, settings
):
    ranks, sizes = data * tensor * pipeline, layout(tensor, pipeline)
    run(job, image_folder, tmp_path, *sizes, *settings, ranks=ranks, file=PROBE)
    assert_replicas_identical(held_in(tmp_path, ranks), data, tensor)
    assert len(losses(tmp_path)) == ITERATIONS
    np.testing.assert_allclose(losses(tmp_path), losses(one_rank[job]), rtol=1e-4)
    assert_same_weights(tmp_path, one_rank[job], rtol=1e-4)
    for ours, theirs in zip(evaluations(tmp_path), evaluations(one_rank[job])):
        np.testing.assert_allclose(list(ours.values()), list(theirs.values()), rtol=1e-5)


def test_clipping_acts(image_folder, one_rank, tmp_path):
    run("finetune", image_folder, tmp_path, "optim.params.clip_grad_max_norm=null")
    with pytest.raises(AssertionError):
        assert_same_weights(tmp_path, one_rank["finetune"], rtol=1e-3)


# The layouts above are evaluated at their runs' ends, and test_checkpoint_travels loads on others.
@pytest.mark.parametrize(
    "job, data, tensor, pipeline", [("pretrain", 2, 1, 2), ("finetune", 1, 2, 2)]
)
def test_eval_only_on_another_layout(
    image_folder, one_rank, tmp_path, job, data, tensor, pipeline
):
    settings = [*layout(tensor, pipeline), f"train.load_weight={one_rank[job]}", "--eval-only"]
    run(job, image_folder, tmp_path, *settings, ranks=data * tensor * pipeline)
    found = json.loads((tmp_path / "evaluation.json").read_text())
    expected = evaluations(one_rank[job])[-1]
    for metric, value in expected.items():
        assert found[metric] == pytest.approx(value, rel=1e-5)


def stopped_at(name, folder, target):
    """The output folder of a run that was killed after it had written a checkpoint of that name."""
    shutil.copytree(folder / name, target / name)
    (target / "last_checkpoint").write_text(name)
    return target


def test_checkpoint_travels(image_folder, one_rank, tmp_path):
    """From one rank to other layouts, one after the other, and back to one rank."""
    expected, last, done = losses(one_rank["pretrain"]), one_rank["pretrain"], 4
    for data, tensor, pipeline in [(2, 1, 1), (1, 2, 1), (1, 1, 2), (1, 1, 1)]:
        here = tmp_path / f"{data}{tensor}{pipeline}"
        last = stopped_at(f"model_{done - 1:07d}", last, here)
        settings = [*layout(tensor, pipeline), "--resume", "train.checkpointer.period=2"]
        run("pretrain", image_folder, here, *settings, ranks=data * tensor * pipeline)
        np.testing.assert_allclose(losses(here), expected[done:], rtol=1e-4)
        assert_same_weights(here, one_rank["pretrain"], rtol=1e-4)
        done += 2


@pytest.fixture(scope="module")
def nine(image_folder, tmp_path_factory):
    """The images to train on, and 9 to validate, none of which shows its class."""
    root = tmp_path_factory.mktemp("nine")
    shutil.copytree(image_folder / "train", root / "train")
    rng = np.random.default_rng(1)
    for i in range(9):
        folder = root / "val" / f"class{i % 3}"
        folder.mkdir(parents=True, exist_ok=True)
        pixels = rng.integers(0, 256, (36, 44, 3), dtype=np.uint8)
        pixels[:, :, rng.integers(3)] = 255
        Image.fromarray(pixels).save(folder / f"{i}.jpg")
    return root


def percent_of_first(data, output, *settings, ranks):
    """The accuracy over the first 1, 2, ... images, see layout_probe.py."""
    settings = [*CLASSIFY, "model.depth=2", "train.test_micro_batch_size=2", *settings]
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("COUNT_IMAGES", "1")
        finetune(data, output, *settings, ranks=ranks, file=PROBE)
    return np.array(json.loads((output / "means.json").read_text()))


def test_every_image_counts_once(nine, tmp_path):
    means = percent_of_first(nine, tmp_path / "1", ranks=1)
    percent = means * np.arange(1, len(means) + 1)
    expected = np.round(percent / 100)
    np.testing.assert_allclose(percent, 100 * expected)
    steps = np.diff([0, *expected])  # one more image is one more right answer, or none
    assert len(steps) == 9 and set(steps) == {0, 1}
    for data, tensor, pipeline in [(2, 1, 1), (2, 2, 1), (2, 1, 2)]:
        output, ranks = tmp_path / f"{data}{tensor}{pipeline}", data * tensor * pipeline
        settings = layout(tensor, pipeline)
        found = percent_of_first(nine, output, *settings, ranks=ranks)
        np.testing.assert_allclose(found, means)
        assert_replicas_identical(held_in(output, ranks), data, tensor)
