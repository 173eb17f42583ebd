"""The memory plan against OneFlow's own graphs, built models and a run; and its command."""
import json
import math
import os
import subprocess
import sys

import oneflow as flow
import pytest
from libai.utils import distributed as dist
from omegaconf import OmegaConf

from benchmarks import memory as measured
from projects.MAE import plan as command
from projects.MAE.errors import UserError
from projects.MAE.modeling.global_tensors import batch_sbp
from projects.MAE.modeling.graph import TrainGraph
from projects.MAE.modeling.mae import MaskedAutoencoderViT
from projects.MAE.modeling.vit import VisionTransformer
from projects.MAE.parallel.layout import Layout, balanced_stages, layers
from projects.MAE.parallel.memory import GIB, rank_memory, worst_rank
from projects.MAE.plan import PARTS, plan
from tests.support.command import CONFIGS, ROOT
from tests.support.sizes import MAE_BASE, TINY_MAE, TINY_VIT

LAYOUTS = [(1, 1, 1), (2, 1, 1), (1, 2, 1), (1, 4, 1), (1, 1, 2), (1, 1, 3), (1, 2, 2), (2, 2, 2)]
SAMPLES = 8


def make_layout(model, data, tensor, pipeline):
    return Layout(data, tensor, pipeline, tuple(balanced_stages(model, pipeline)))


def settings_of(model, device="cpu", checkpointing=False, amp=False, zero=0):
    """What of a configuration a rank's memory depends on."""
    train = dict(
        device=device,
        activation_checkpoint=dict(enabled=checkpointing),
        amp=dict(enabled=amp),
        zero_optimization=dict(enabled=zero > 0, stage=zero),
    )
    return OmegaConf.create(dict(model=model, train=train))


def build(config):
    kind = MaskedAutoencoderViT if "decoder_depth" in config else VisionTransformer
    return kind(**config)


def held_by(name, parameter, layout):
    """Numbers of a parameter that a tensor-parallel rank holds."""
    count = math.prod(parameter.shape)
    shared = ("query_key_value.", "dense_h_to_4h.", "self_attention.dense.weight")
    shared += ("dense_4h_to_h.weight",)
    return count // layout.tensor if any(part in name for part in shared) else count


def stage_of(name, config, layout):
    """The stage of a built parameter, by the layer_idx that its module was given."""
    last = layers(config) - 1
    for start, first in (("blocks.", 0), ("decoder_blocks.", config.depth)):
        if name.startswith(start):
            return layout.stages[first + int(name.split(".")[1])]
    if name.startswith(("decoder_norm", "decoder_pred")):
        return layout.stages[last]
    if name.startswith(("decoder_", "mask_token")):
        return layout.stages[config.depth]
    if name.startswith(("norm", "fc_norm", "head")):
        return layout.stages[config.depth - 1]
    return layout.stages[0]


@pytest.mark.parametrize("config", [TINY_MAE, TINY_VIT], ids=["mae", "vit"])
@pytest.mark.parametrize("sizes", LAYOUTS)
def test_parameters_of_a_rank_are_those_of_the_built_model(config, sizes):
    layout = make_layout(config, *sizes)
    parameters = dict(build(config).named_parameters())
    for stage in range(layout.pipeline):
        mine = {n: p for n, p in parameters.items() if stage_of(n, config, layout) == stage}
        held = sum(held_by(n, p, layout) for n, p in mine.items())
        trained = sum(held_by(n, p, layout) for n, p in mine.items() if p.requires_grad)
        memory = rank_memory(settings_of(config), layout, stage, SAMPLES)
        assert memory["parameters"] == 4 * held
        assert (memory["gradients"], memory["optimizer"]) == (4 * trained, 8 * trained)


def test_parameters_of_the_papers_sizes():
    memory = rank_memory(settings_of(MAE_BASE), make_layout(MAE_BASE, 1, 1, 1), 0, SAMPLES)
    assert memory["parameters"] == 4 * 111_907_840


def graph_bytes(config, steps, checkpointing):
    """Bytes of all tensors in a compiled training graph, by OneFlow's own account of them."""
    model = build(config)
    optimizer = flow.optim.AdamW([p for p in model.parameters() if p.requires_grad])
    graph = TrainGraph(
        model, optimizer, None, activation_checkpoint=checkpointing, grad_acc_steps=steps
    )

    def batch(*shape):
        return flow.rand(*shape, placement=dist.get_layer_placement(0), sbp=batch_sbp())

    patches = (config.img_size // config.patch_size) ** 2
    inputs = dict(images=batch(SAMPLES, 3, config.img_size, config.img_size))
    if "mask_ratio" in config:
        inputs["noise"] = batch(SAMPLES, patches)
    else:
        inputs["labels"] = batch(SAMPLES, config.num_classes)
        inputs["drop_path_noise"] = batch(SAMPLES, 2 * config.depth)
    graph._compile(**inputs)
    item_size = {2: 4, 3: 8, 5: 1, 6: 8}  # float32, double, int8 and int64 of data_type.proto
    job = graph._compiled_graph_proto
    return sum(
        math.prod(blob.shape.dim) * item_size.get(blob.data_type, 4)
        for blob in job.helper.lbn2logical_blob_desc.values()
    )


@pytest.mark.usefixtures("native_kernels")  # a plan for CPUs is one for the native kernels
@pytest.mark.parametrize("config", [TINY_MAE, TINY_VIT], ids=["mae", "vit"])
@pytest.mark.parametrize("steps, checkpointing", [(1, False), (2, False), (1, True)])
def test_tensors_of_a_step_are_those_of_the_compiled_graph(config, steps, checkpointing):
    cfg, layout = settings_of(config, checkpointing=checkpointing), make_layout(config, 1, 1, 1)
    memory = rank_memory(cfg, layout, 0, SAMPLES // steps, steps)
    planned = sum(memory[part] for part in ("parameters", "gradients", "optimizer", "activations"))
    # What kernels work in is no tensor of the graph: 8 times the widest block's input.
    widest = max((1 + 64) * 32, (1 + 16) * 64) if "mask_ratio" in config else (1 + 64) * 64
    planned -= 4 * SAMPLES // steps * 8 * widest
    assert planned == pytest.approx(graph_bytes(config, steps, checkpointing), rel=0.05)


def needs(part, model=MAE_BASE, sizes=(1, 1, 1), batch=64, steps=1, device="cuda", **settings):
    """Bytes of a part in the rank that needs most."""
    cfg = settings_of(model, device, **settings)
    return worst_rank(cfg, make_layout(model, *sizes), batch, steps)[part]


def test_what_takes_less_and_what_takes_more():
    activations = needs("activations")
    assert needs("activations", batch=128) == pytest.approx(2 * activations)
    assert needs("activations", amp=True) < activations
    assert needs("activations", checkpointing=True) < activations / 2
    data = (8, 1, 1)
    assert needs("optimizer", sizes=data, zero=1) == pytest.approx(needs("optimizer") / 8)
    assert needs("gradients", sizes=data, zero=1) == needs("gradients")
    assert needs("gradients", sizes=data, zero=2) == pytest.approx(needs("gradients") / 8)
    assert needs("total", sizes=(1, 2, 1)) < needs("total")
    assert needs("total", sizes=(1, 4, 1)) < needs("total", sizes=(1, 2, 1))
    assert needs("parameters", sizes=(1, 1, 2)) < needs("parameters")
    # Stages that wait for one another keep the activations of several micro-batches.
    stages = (1, 1, 2)
    assert needs("activations", sizes=stages, steps=8) > needs("activations", sizes=stages)
    # On a CPU nothing is shared, so that recomputation adds to what is there.
    assert needs("total", device="cpu", checkpointing=True) > needs("total", device="cpu")


def table_of(*arguments):
    return "\n".join(command.table(plan(command.parse_arguments(list(arguments)))))


def lines_of(*arguments):
    (model,) = plan(command.parse_arguments(list(arguments)))["models"]
    return model, model["layouts"]


def test_table_of_all_layouts_and_sizes():
    text = table_of(f"{CONFIGS}/mae_pretraining.py", "4", "--memory", "16")
    for part in ("ViT-Base", "ViT-Large", "ViT-Huge", "4 x 1 x 1 *", "1 x 2 x 2", "never", "fits"):
        assert part in text
    assert text.count("1 x 4 x 1") == 3
    assert max(len(line) for line in text.splitlines()) < 130


def test_layouts_keep_the_global_batch():
    model, lines = lines_of(
        f"{CONFIGS}/mae_finetune.py",
        "8",
        "vit.size=large",
        "train.dist.tensor_parallel_size=2",
        "--memory=12",
    )
    assert model["size"] == "large"
    for line in lines:
        assert line["total"] == sum(line[part] for part in PARTS if part != "total")
        batch = line["micro_batch"] * line["accumulation_steps"] * line["data"]
        assert batch == model["global_batch_size"] == 512
        assert line["fits"] == (line["total"] <= 12 * GIB)
        assert line["fits"] == (line["micro_batch"] <= (line["largest_micro_batch"] or 0))
    (configured,) = [line for line in lines if line["configured"]]
    assert (configured["data"], configured["tensor"], configured["pipeline"]) == (4, 2, 1)


def test_accumulation_steps_are_kept_where_no_micro_batch_is_set():
    _, lines = lines_of(f"{CONFIGS}/quickstart_pretraining.py", "2", "train.device=cpu")
    assert {line["accumulation_steps"] for line in lines} == {1}


def test_layouts_that_cannot_share_the_global_batch_are_left_out():
    settings = "train.global_batch_size=63", "train.dist.tensor_parallel_size=2"
    _, lines = lines_of(f"{CONFIGS}/quickstart_pretraining.py", "2", *settings)
    assert {(line["data"], line["micro_batch"]) for line in lines} == {(1, 63)}


PRETRAINING = f"{CONFIGS}/mae_pretraining.py"


@pytest.mark.parametrize(
    "arguments, parts",
    [
        (("nowhere.py", "8"), ["nowhere.py", "no such file"]),
        ((PRETRAINING, "0"), ["argument N", "'0'", "whole number above 0"]),
        ((PRETRAINING, "8", "--memory=-1"), ["--memory -1"]),
        ((PRETRAINING, "8", "model.dept=3"), ["model.dept", "model.depth"]),
        (
            (PRETRAINING, "8", "train.dist.tensor_parallel_size=3"),
            ["tensor_parallel_size=3", "tensor 4 x pipeline 1"],
        ),
        ((PRETRAINING, "3", "train.global_batch_size=64"), ["64", "3 data"]),
        ((PRETRAINING, "2", "graph.enabled=False"), ["graph.enabled=False"]),
        (
            (PRETRAINING, "2", "train.device=cpu", "train.zero_optimization.enabled=True"),
            ["zero_optimization.enabled=True", "CPU"],
        ),
    ],
)
def test_mistakes_name_key_and_value(arguments, parts, monkeypatch):
    monkeypatch.chdir(ROOT)
    with pytest.raises(UserError) as caught:
        table_of(*arguments)
    for part in parts:
        assert part in str(caught.value)


def test_a_recipe_of_another_kind_is_refused(tmp_path):
    recipe = tmp_path / "recipe.py"
    recipe.write_text(
        f"""
from libai.config import LazyConfig
from oneflow.optim import SGD

base = LazyConfig.load("{ROOT / CONFIGS / 'mae_finetune.py'}")
dataloader, finetune, graph, model = base.dataloader, base.finetune, base.graph, base.model
optim, train, vit = base.optim, base.train, base.vit
optim._target_ = SGD
del optim["betas"]
del base
"""
    )
    with pytest.raises(UserError, match="optim=SGD .* AdamW"):
        table_of(str(recipe), "8")


def test_a_setting_is_called_what_the_user_typed(monkeypatch, capsys):
    monkeypatch.chdir(ROOT)
    assert command.main([PRETRAINING, "8", "model.mask_ratio=1"]) == 1
    assert capsys.readouterr().err.startswith("error: model.mask_ratio=1: it leaves 0 of 196")


@pytest.mark.parametrize("ranks, status", [("2", 0), ("two", 1)])
def test_command(ranks, status):
    config = f"{CONFIGS}/quickstart_finetune.py"
    result = subprocess.run(
        [sys.executable, "-m", "projects.MAE.plan", config, ranks, "--json"],
        cwd=ROOT,
        env=dict(os.environ, PYTHONPATH=str(ROOT)),
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )
    assert result.returncode == status
    errors = [line for line in result.stderr.splitlines() if line.startswith("error: argument N")]
    assert len(errors) == status and "Traceback" not in result.stderr
    assert bool(result.stdout) != bool(status)
    if not status:
        assert json.loads(result.stdout)["models"][0]["layouts"]


def test_what_was_measured_is_what_is_planned():
    recorded = json.loads((ROOT / "benchmarks/memory_results.json").read_text())["cases"]
    assert [case["name"] for case in recorded] == list(measured.CASES)
    for case in recorded:
        recipe, ranks, overrides = measured.CASES[case["name"]]
        config = str(ROOT / CONFIGS / f"mae_{recipe}.py")
        planned = [total for total, _ in measured.predict(config, ranks, measured.COMMON + overrides)]
        assert planned == case["predicted"]
        assert planned == pytest.approx(case["measured"], rel=measured.LIMIT)


def test_a_linear_probe_has_no_plan():
    arguments = command.parse_arguments([str(ROOT / CONFIGS / "mae_linprobe.py"), "8"])
    with pytest.raises(UserError, match="less than mae_finetune.py"):
        plan(arguments)
