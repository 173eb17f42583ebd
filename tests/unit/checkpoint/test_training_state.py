"""What a run goes on with besides its weights, and what is refused."""
import json
import os
import pickle
import re
import shutil
from types import SimpleNamespace

import numpy as np
import oneflow as flow
import pytest

from projects.MAE.checkpoint.card import check_same_run, model_card, run_card
from projects.MAE.checkpoint.output_folder import open_output_folder
from projects.MAE.data.datasets import ConcatenatedDataset, PretrainingDataset
from projects.MAE.errors import UserError
from projects.MAE.optim.schedule import warmup_cosine_lr
from projects.MAE.parallel.layout import Batch
from projects.MAE.settings.load import load_config
from tests.support.checkpoints import CARD_OF_RUN, trained, training
from tests.support.command import CONFIGS, ROOT

NAME = "model_0000001"


@pytest.fixture(scope="module", params=[True, False], ids=["graph", "eager"])
def saved(request, tmp_path_factory):
    """A folder with a checkpoint after two steps of four, and whether a graph trained it."""
    folder = tmp_path_factory.mktemp("state")
    trained(folder, request.param, steps=2, iterations=4).save(NAME, iteration=2)
    return folder, request.param


def rates(iterations, lr):
    optimizer = flow.optim.AdamW([flow.nn.Parameter(flow.zeros(1))], lr=lr)
    schedule, found = warmup_cosine_lr(optimizer, iterations, 0), []
    for _ in range(iterations):
        found.append(schedule.get_last_lr()[0])
        schedule.step()
    return found


@pytest.mark.parametrize("iterations, lr", [(4, 1e-2), (8, 1e-2), (4, 1e-6)])
def test_rates_are_those_of_the_configuration(saved, iterations, lr):
    folder, graph_mode = saved
    checkpointer, step = training(folder, graph_mode, seed=1, lr=lr, iterations=iterations)
    checkpointer.resume(NAME)
    schedule = checkpointer.checkpointables["lr_scheduler"]
    expected = rates(iterations, lr)
    for rate in expected[2:]:
        assert schedule.get_last_lr()[0] == rate
        before = checkpointer.model.cls_token.numpy().copy()
        step()
        # Adam's step is about as long as the rate.
        moved = np.abs(checkpointer.model.cls_token.numpy() - before).max()
        assert 0.1 * rate < moved < 3 * rate + 1e-8


def test_another_optimizer_is_refused(saved):
    folder, _ = saved
    with pytest.raises(UserError, match="optim=SGD, but .* belongs to a run with AdamW"):
        checkpoint = folder / NAME / "model" / "model_card.json"
        assert '"optimizer": "AdamW"' in checkpoint.read_text()
        open_output_folder(str(folder), True, {**CARD_OF_RUN, "optimizer": "SGD"})


def card_of(*overrides, recipe="mae_pretraining.py"):
    cfg = load_config(str(ROOT / CONFIGS / recipe), overrides)
    return run_card(SimpleNamespace(cfg=cfg, batch=Batch(64, 1, 64)))


RESIZE = "dataloader.test.0.dataset.transform.transforms.0"


@pytest.mark.parametrize("recipe", ["mae_pretraining.py", "mae_finetune.py", "mae_linprobe.py"])
@pytest.mark.parametrize(
    "override, said",
    [
        ("data.mean=[0.5,0.5,0.5]", "data.mean=[0.485, 0.456, 0.406], but C belongs to a run with [0.5"),
        ("data.std=[1,1,1]", "data.std=[0.229, 0.224, 0.225], but C belongs to a run with [1, 1, 1]"),
        ("data.exif=apply", "data.exif=ignore, but C belongs to a run with apply"),
        ("data.bits=12", "data.bits=16, but C belongs to a run with 12"),
        (f"{RESIZE}.resample=box", "dataloader.test.0.dataset.transform: resample=bicubic, but C"),
    ],
)
def test_a_run_goes_on_with_its_own_preprocessing_alone(recipe, override, said):
    card = json.loads(json.dumps(card_of(override, recipe=recipe)))  # as the checkpoint has it
    check_same_run(card, card_of(override, recipe=recipe), "C")
    with pytest.raises(UserError, match=f"--resume: {re.escape(said)}.*set it back"):
        check_same_run(card, card_of(recipe=recipe), "C")
    check_same_run({}, card_of(override, recipe=recipe), "C")  # one of an earlier version


MIXUP = "dataloader.train.mixup"
CROP = "dataloader.train.dataset.0.transform.transforms.0"


@pytest.mark.parametrize(
    "recipe, override, said",
    [
        ("mae_pretraining.py", f"{CROP}.scale=[0.5,1]", f"{CROP}.scale=[0.2, 1.0], but C"),
        ("mae_finetune.py", f"{CROP}.ratio=[1,1]", f"{CROP}.ratio=[0.75, 1.33333"),
        ("mae_finetune.py", f"{MIXUP}=null", f"{MIXUP}=Mixup, but C"),
        ("mae_finetune.py", f"{MIXUP}.prob=0.5", f"{MIXUP}.prob=1.0, but C"),
        ("mae_linprobe.py", f"{CROP}.clamp=False", f"{CROP}.clamp=True, but C"),
    ],
)
def test_a_run_goes_on_with_its_own_augmentation_alone(recipe, override, said):
    card = json.loads(json.dumps(card_of(override, recipe=recipe)))
    check_same_run(card, card_of(override, recipe=recipe), "C")
    with pytest.raises(UserError, match=f"--resume: {re.escape(said)}.*set it back"):
        check_same_run(card, card_of(recipe=recipe), "C")
    del card["augmentation"]  # one of an earlier version
    check_same_run(card, card_of(recipe=recipe), "C")


def test_a_transform_more_or_less_is_another_run():
    cfg = load_config(str(ROOT / CONFIGS / "mae_pretraining.py"), [])
    run = SimpleNamespace(cfg=cfg, batch=Batch(64, 1, 64))
    before = json.loads(json.dumps(run_card(run)))
    del cfg.dataloader.train.dataset[0].transform.transforms[1]
    fewer = json.loads(json.dumps(run_card(run)))
    cases = (before, fewer, "Crop, ToArray"), (fewer, before, "HorizontalFlip, ToArray")
    for card, current, names in cases:
        with pytest.raises(UserError, match=f"transforms=Random.*{names}, but C"):
            check_same_run(card, current, "C")


def test_the_card_tells_mean_and_std_without_an_evaluation_too():
    cfg = load_config(str(ROOT / CONFIGS / "mae_pretraining.py"), ["data.mean=[0.5,0.5,0.5]"])
    del cfg.dataloader["test"]
    card = run_card(SimpleNamespace(cfg=cfg, batch=Batch(64, 1, 64)))
    assert card["preprocessing"] == dict(mean=[0.5, 0.5, 0.5], std=[0.229, 0.224, 0.225])


def test_a_data_set_needs_no_files():
    class Numbers:
        images = np.zeros((10, 4, 8, 8), np.float32)  # no files, whatever it is called

        def __len__(self):
            return 10

    cfg = load_config(str(ROOT / CONFIGS / "mae_pretraining.py"), [])
    card = model_card(SimpleNamespace(cfg=cfg, batch=Batch(64, 1, 64)), Numbers())
    assert card["images"] == 10 and card["classes"] == [] and "image_list" not in card


def test_other_images_in_any_of_several_data_sets_are_another_run(image_folder, tmp_path):
    second = tmp_path / "second"
    shutil.copytree(image_folder, second)
    cfg = load_config(str(ROOT / CONFIGS / "mae_pretraining.py"), [])
    run = SimpleNamespace(cfg=cfg, batch=Batch(64, 1, 64))

    def card():
        sets = [PretrainingDataset(str(root), True, None, 24, 4) for root in (image_folder, second)]
        return model_card(run, ConcatenatedDataset(sets))

    before = json.loads(json.dumps(card()))
    check_same_run(before, card(), "C")
    image = second / "train" / "class1" / "3.jpg"
    image.rename(image.with_name("30.jpg"))
    with pytest.raises(UserError, match="names of the training images=the data's, but C belongs to"):
        check_same_run(before, card(), "C")


def damaged(saved, tmp_path):
    """A copy of the checkpoint to damage, and the part with the optimizer's state."""
    folder, graph_mode = saved
    shutil.copytree(folder / NAME, tmp_path / NAME)
    return tmp_path / NAME / ("graph" if graph_mode else "optimizer")


def refused(saved, tmp_path, words, trains_on=True):
    """Nothing of the checkpoint is loaded but its weights, and the process goes on.

    Args:
        trains_on: whether to see that in graph mode, too, where a step costs seconds of compiling.
    """
    _, graph_mode = saved
    checkpointer, step = training(tmp_path, graph_mode, seed=1)
    with pytest.raises(UserError, match=words):
        checkpointer.resume(NAME)
    if trains_on or not graph_mode:
        step()


def tensor_of_a_weight(part):
    """The folder of a tensor with several axes."""
    for name in sorted(os.listdir(part)):
        meta = part / name / "meta"
        if meta.is_file() and meta.read_text().count("dim:") == 2:
            return part / name


def test_a_tensor_of_another_shape_is_refused(saved, tmp_path):
    tensor = tensor_of_a_weight(damaged(saved, tmp_path))
    meta = tensor / "meta"
    lines = meta.read_text().splitlines(True)
    first = next(i for i, line in enumerate(lines) if "dim:" in line)
    del lines[first]
    meta.write_text("".join(lines))
    size = int(lines[first].split("dim:")[1])
    (tensor / "out").write_bytes(bytes(4 * size))
    refused(saved, tmp_path, "has shape .* this model needs")


def test_numbers_of_another_type_are_refused(saved, tmp_path):
    tensor = tensor_of_a_weight(damaged(saved, tmp_path))
    meta = (tensor / "meta").read_text()
    (tensor / "meta").write_text(meta.replace("kFloat", "kInt32"))
    refused(saved, tmp_path, "is of int32, not of float32")


def write(part, data):
    with open(part / "pickled_data", "wb") as file:
        pickle.dump({"protocol_version": 1, "data": data}, file)


@pytest.mark.parametrize("state", [[], {"a": 1}, {"last_step": "2"}, {"last_step": -1}])
def test_a_damaged_schedule_is_refused(saved, tmp_path, state):
    write(damaged(saved, tmp_path).parent / "lr_scheduler", state)
    refused(saved, tmp_path, "no number last_step", trains_on=state == [])


@pytest.mark.parametrize(
    "state",
    [
        [],
        {},
        {"model.nothing-m": 1},
        {"state": {}},
        {"state": {}, "param_groups": [{"params": [0]}]},
        {"state": {"x": []}, "param_groups": 3},
    ],
)
def test_a_damaged_optimizer_is_refused(saved, tmp_path, state):
    part = damaged(saved, tmp_path)
    write(part, state)
    words = "damaged|is of no weight|no optimizer's|other groups|missing"
    refused(saved, tmp_path, words, trains_on="param_groups" in state)
