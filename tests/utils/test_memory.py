"""The memory plan against OneFlow's own graphs, built models and a run; and its command."""
import json
import math
import os
import subprocess
import sys

import oneflow as flow
import pytest
from libai.utils import distributed as dist

from projects.MAE import plan as command
from projects.MAE.engine.layout_plan import PARTS, plan
from projects.MAE.errors import UserError
from projects.MAE.modeling.graph import TrainGraph
from projects.MAE.modeling.layers import batch_sbp
from projects.MAE.modeling.mae import MaskedAutoencoderViT
from projects.MAE.modeling.vit import VisionTransformer
from projects.MAE.parallel.layout import balanced_stages, layers
from projects.MAE.parallel.memory import GIB, Layout, LayoutMemory, Settings, parameter_counts
from tests.command import CONFIGS, ROOT, environment
from tests.sizes import MAE_BASE, TINY_MAE, TINY_VIT

LAYOUTS = [(1, 1, 1), (2, 1, 1), (1, 2, 1), (1, 4, 1), (1, 1, 2), (1, 1, 3), (1, 2, 2), (2, 2, 2)]
SAMPLES = 8


def make_layout(model, data, tensor, pipeline):
    return Layout(data, tensor, pipeline, tuple(balanced_stages(model, pipeline)))


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
            return layout.stage_of(first + int(name.split(".")[1]))
    if name.startswith(("decoder_norm", "decoder_pred")):
        return layout.stage_of(last)
    if name.startswith(("decoder_", "mask_token")):
        return layout.stage_of(config.depth)
    if name.startswith(("norm", "fc_norm", "head")):
        return layout.stage_of(config.depth - 1)
    return layout.stage_of(0)


@pytest.mark.parametrize("config", [TINY_MAE, TINY_VIT], ids=["mae", "vit"])
@pytest.mark.parametrize("sizes", LAYOUTS)
def test_parameters_of_a_rank_are_those_of_the_built_model(config, sizes):
    layout = make_layout(config, *sizes)
    parameters = dict(build(config).named_parameters())
    for stage in range(layout.pipeline):
        mine = {n: p for n, p in parameters.items() if stage_of(n, config, layout) == stage}
        held = sum(held_by(n, p, layout) for n, p in mine.items())
        trained = {n: p for n, p in mine.items() if p.requires_grad}
        expected = held, sum(held_by(n, p, layout) for n, p in trained.items()), len(trained)
        assert parameter_counts(config, layout, stage) == expected


def test_parameters_of_the_papers_sizes():
    assert parameter_counts(MAE_BASE, Layout(1, 1, 1))[0] == 111_907_840


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
    estimate = LayoutMemory(config, Layout(1, 1, 1), Settings("cpu", checkpointing))
    memory = estimate.of_rank(0, SAMPLES // steps, steps)
    planned = memory.parameters + memory.gradients + memory.optimizer + memory.activations
    assert planned == pytest.approx(graph_bytes(config, steps, checkpointing), rel=0.02)


def total(model=MAE_BASE, sizes=(1, 1, 1), batch=64, steps=1, **settings):
    settings = Settings(**{"device": "cuda", **settings})
    return LayoutMemory(model, make_layout(model, *sizes), settings).worst_rank(batch, steps)[1]


def test_what_takes_less_and_what_takes_more():
    plain = total()
    assert total(batch=128).activations == pytest.approx(2 * plain.activations)
    assert total(amp=True).activations < plain.activations
    assert total(checkpointing=True).activations < plain.activations / 2
    assert total(sizes=(8, 1, 1), zero=1).optimizer == pytest.approx(plain.optimizer / 8)
    assert total(sizes=(8, 1, 1), zero=2).gradients == pytest.approx(plain.gradients / 8)
    assert total(sizes=(1, 2, 1)).total < plain.total
    assert total(sizes=(1, 4, 1)).total < total(sizes=(1, 2, 1)).total
    assert total(sizes=(1, 1, 2)).parameters < plain.parameters
    # Stages that wait for one another keep the activations of several micro-batches.
    assert total(sizes=(1, 1, 2), steps=8).activations > total(sizes=(1, 1, 2)).activations
    # On a CPU nothing is shared, so that recomputation adds to what is there.
    assert total(device="cpu", checkpointing=True).total > total(device="cpu").total


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
        assert line["total"] == pytest.approx(sum(line[part] for part in PARTS), abs=6)
        batch = line["micro_batch"] * line["accumulation_steps"] * line["data"]
        assert batch == model["global_batch_size"] == 512
        assert line["fits"] == (line["total"] <= 12 * GIB)
        assert line["fits"] == (line["micro_batch"] <= (line["largest_micro_batch"] or 0))
    (configured,) = [line for line in lines if line["configured"]]
    assert (configured["data"], configured["tensor"], configured["pipeline"]) == (4, 2, 1)


def test_accumulation_steps_are_kept_where_no_micro_batch_is_set():
    _, lines = lines_of(f"{CONFIGS}/quickstart_pretraining.py", "2", "train.device=cpu")
    assert {line["accumulation_steps"] for line in lines} == {1}


PRETRAINING = f"{CONFIGS}/mae_pretraining.py"


@pytest.mark.parametrize(
    "arguments, parts",
    [
        (("nowhere.py", "8"), ["nowhere.py", "no such file"]),
        ((PRETRAINING, "0"), ["N=0"]),
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
    with pytest.raises(UserError, match="optim is a SGD in this recipe"):
        table_of(str(recipe), "8")


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
    errors = [line for line in result.stderr.splitlines() if line.startswith("error: N=two")]
    assert len(errors) == status and "Traceback" not in result.stderr
    assert bool(result.stdout) != bool(status)
    if not status:
        assert json.loads(result.stdout)["models"][0]["layouts"]


@pytest.mark.usefixtures("native_kernels")  # a plan for CPUs is one for the native kernels
def test_resident_memory_of_two_ranks(tmp_path):
    # Memory doesn't depend on how fast or busy a machine is.
    result = subprocess.run(
        [sys.executable, "benchmarks/memory.py", "--json", str(tmp_path / "results.json")]
        + ["--only", "finetune 1x1x2"],
        cwd=ROOT,
        env=environment(),
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        timeout=600,
    )
    assert result.returncode == 0, result.stdout
    (case,) = json.loads((tmp_path / "results.json").read_text())["cases"]
    assert case["ratios"] == pytest.approx([1, 1], abs=0.15)


def test_a_linear_probe_has_no_plan():
    arguments = command.parse_arguments([str(ROOT / CONFIGS / "mae_linprobe.py"), "8"])
    with pytest.raises(UserError, match="less than mae_finetune.py"):
        plan(arguments)
