"""Pretraining, finetuning, evaluation and resuming through tools/train.sh, on tiny models."""
import json
import shutil

import numpy as np
import pytest

from projects.MAE.checkpoint.names import find_checkpoint
from projects.MAE.checkpoint.reader import read_card
from tests.support.command import CONFIGS, ROOT, TINY, TINY_DECODER, WORKERS
from tests.support.command import finetune, must_train, pretrain, train
from tests.support.runs import assert_same_weights, losses, metrics


@pytest.fixture(scope="module")
def finetuned(image_folder, pretrained, tmp_path_factory):
    """A finetuning run of 4 iterations on one rank, and its output."""
    folder = tmp_path_factory.mktemp("finetuned")
    return folder, finetune(image_folder, folder, f"finetune.path={pretrained}", "model.num_classes=3")


def test_pretraining_writes_metrics_and_a_checkpoint(pretrained):
    lines = [line for line in metrics(pretrained) if "total_loss" in line]
    assert [line["iteration"] for line in lines] == [1, 2, 3, 4]
    assert all(line["samples_per_second"] > 0 for line in lines)
    assert lines[0]["lr"] == 0.0  # the warm-up starts at 0
    card = read_card(find_checkpoint(pretrained))
    assert card["model"] == "MaskedAutoencoderViT" and card["iteration"] == 4
    assert card["classes"] == ["class0", "class1", "class2"]
    assert (pretrained / "model_final").resolve().name == "model_0000003"


def test_two_ranks_are_the_same_run(image_folder, pretrained, tmp_path):
    pretrain(image_folder, tmp_path, ranks=2)
    np.testing.assert_allclose(losses(tmp_path), losses(pretrained), rtol=1e-5)
    assert_same_weights(tmp_path, pretrained, rtol=1e-4)


@pytest.mark.parametrize("graph", ["True", "False"])
def test_accumulation_is_the_same_run(image_folder, pretrained, tmp_path, graph):
    settings = ["train.num_accumulation_steps=2", f"graph.enabled={graph}"]
    pretrain(image_folder, tmp_path, *settings)
    np.testing.assert_allclose(losses(tmp_path), losses(pretrained), rtol=1e-5)
    assert_same_weights(tmp_path, pretrained, rtol=1e-4)


def test_activation_checkpointing_and_workers_change_nothing(image_folder, pretrained, tmp_path):
    settings = ["train.activation_checkpoint.enabled=True", *WORKERS]
    pretrain(image_folder, tmp_path, *settings)
    np.testing.assert_allclose(losses(tmp_path), losses(pretrained), rtol=1e-6)


@pytest.mark.parametrize(
    "job, graph", [(pretrain, "True"), (finetune, "True"), (finetune, "False")]
)
def test_resuming_continues_the_run(image_folder, tmp_path, job, graph):
    settings = ["train.checkpointer.period=2", "train.warmup_epoch=0", f"graph.enabled={graph}"]
    if job is finetune:  # layer decay and stochastic depth continue, too
        settings += ["finetune.enable=False", "model.num_classes=3", "model.drop_path_rate=0.2"]
        settings.append("model.depth=2")  # the first block is never dropped
    job(image_folder, tmp_path, *settings)
    expected = losses(tmp_path)
    shutil.copytree(tmp_path / "model_0000003", tmp_path / "uninterrupted")
    # As if the run had been killed after its first checkpoint.
    (tmp_path / "last_checkpoint").write_text("model_0000001")
    assert "Resumed from" in job(image_folder, tmp_path, *settings, "--resume")
    assert losses(tmp_path)[-2:] == expected[-2:]
    assert_same_weights(tmp_path, tmp_path / "uninterrupted")


def test_finetuning_reports_what_it_loaded(finetuned):
    _, output = finetuned
    assert "Loaded 16 tensors" in output
    assert "New, with initial values: fc_norm.weight, fc_norm.bias, head.weight, head.bias" in output
    assert "tensors of the decoder; others: norm.bias, norm.weight" in output


def test_finetuning_from_a_path_that_stands_in_the_file(image_folder, pretrained, tmp_path):
    file = shutil.copytree(ROOT / CONFIGS, tmp_path / "configs") / "mae_finetune.py"
    text = file.read_text()
    (line,) = [line for line in text.splitlines() if line.startswith("finetune = ")]
    own = f'finetune.enable = True\nfinetune.weight_style = "oneflow"\nfinetune.path = "{pretrained}"'
    file.write_text(text.replace(line, f"{line}\n{own}"))
    output = must_train(
        str(file),
        *TINY,
        *["model.img_size=24", "model.patch_size=4", "model.num_classes=3"],
        *["train.num_accumulation_steps=1", "train.train_micro_batch_size=null"],
        *["train.warmup_epoch=0", "dataloader.train.num_workers=0", "train.evaluation.enabled=False"],
        f"dataloader.train.dataset.0.root={image_folder}",
        f"train.output_dir={tmp_path}/finetuned",
    )
    (line,) = [line for line in output.splitlines() if "Loaded" in line]
    assert str(pretrained) in line


def test_eval_only_gives_the_numbers_of_the_run(image_folder, finetuned, tmp_path):
    folder, _ = finetuned
    settings = [f"train.load_weight={folder}", "model.num_classes=3", "--eval-only"]
    finetune(image_folder, tmp_path, *settings, ranks=2)
    evaluation = json.loads((tmp_path / "evaluation.json").read_text())
    last = [line for line in metrics(folder) if "Acc@1" in line][-1]
    assert evaluation["Acc@1"] == last["Acc@1"]
    assert "Acc@5" not in evaluation and "Acc@5" not in last  # of three classes


def test_any_folder_and_any_place_for_options(image_folder, tmp_path):
    output = pretrain(
        image_folder, tmp_path / "out", "--fast-dev-run", "train.seed=3", cwd=tmp_path, ranks=1
    )
    assert "3 iterations of 8 samples" in output


@pytest.mark.parametrize("config", ["mae_pretraining.py", "mae_finetune.py", "mae_linprobe.py"])
def test_imagenet_recipes_run_at_full_size(image_folder, tmp_path, config):
    output = must_train(
        config,
        f"dataloader.train.dataset.0.root={image_folder}",
        f"train.output_dir={tmp_path}",
        "train.train_micro_batch_size=2",
        "train.test_micro_batch_size=2",
        "train.num_accumulation_steps=1",
        "dataloader.train.num_workers=1",
        *([] if "pretraining" in config else ["finetune.enable=False"]),
        "--fast-dev-run",
    )
    assert ("111,907,840" if "pretraining" in config else "86,567,656") + " parameters" in output
    folder = tmp_path / "fast_dev_run"  # beside a run, not over it
    assert len(losses(folder)) == 3 and np.isfinite(losses(folder)).all()
    assert find_checkpoint(folder).endswith("model_0000002")


def test_a_checkpoint_of_other_heads_or_another_batch_is_refused(image_folder, pretrained, tmp_path):
    settings = [f"dataloader.train.dataset.0.root={image_folder}", f"train.output_dir={tmp_path}"]
    load = [f"train.load_weight={pretrained}", "model.num_heads=8", "--eval-only"]
    result = train("quickstart_pretraining.py", *TINY, *TINY_DECODER, *settings, *load)
    assert result.returncode == 1 and "error: model.num_heads=8, but" in result.stdout
    shutil.copytree(pretrained, tmp_path, dirs_exist_ok=True, symlinks=True)
    resume = ["train.global_batch_size=4", "--resume"]
    result = train("quickstart_pretraining.py", *TINY, *TINY_DECODER, *settings, *resume)
    assert result.returncode == 1 and "error: --resume: train.global_batch_size=4" in result.stdout


def test_max_to_keep_counts_what_was_there_before_a_resume(image_folder, tmp_path):
    keep = ["train.checkpointer.period=1", "train.checkpointer.max_to_keep=2"]
    pretrain(image_folder, tmp_path, *keep)
    pretrain(image_folder, tmp_path, *keep, "train.train_iter=6", "--resume")
    names = sorted(path.name for path in tmp_path.glob("model_0*"))
    assert names == ["model_0000004", "model_0000005"]
