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
