"""The memory that is planned for a run is what its processes take."""
import json
import subprocess
import sys

import pytest

from tests.support.command import ROOT, environment


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
