"""Layouts that don't fit, and how blocks are shared out over pipeline stages."""
import itertools

import pytest
from omegaconf import OmegaConf

from projects.MAE.errors import UserError
from projects.MAE.parallel.layout import (
    Batch,
    Layout,
    batch_of,
    check_rdma,
    check_stages,
    check_zero,
    layout_of,
    misfit,
    nearest_layouts,
)
from projects.MAE.parallel.stage_balance import balance, block_costs
from tests.support.sizes import MAE_BASE


def config(tensor, pipeline, stages=None):
    sizes = dict(
        data_parallel_size=None,
        tensor_parallel_size=tensor,
        pipeline_parallel_size=pipeline,
        pipeline_num_layers=None,
        custom_pipeline_stage_id=stages,
    )
    return OmegaConf.create(dict(model=MAE_BASE, train=dict(dist=sizes)))


@pytest.mark.parametrize(
    "world_size, tensor, pipeline, parts",
    [
        (2, 3, 1, ["tensor_parallel_size=3", "2 ranks", "tensor 2 x pipeline 1"]),
        (8, 8, 1, ["tensor_parallel_size=8", "model.num_heads=12", "tensor 4 x pipeline 1"]),
        (24, 3, 1, ["tensor_parallel_size=3", "model.decoder_num_heads=16", "tensor 4 x pipeline"]),
        (32, 1, 32, ["pipeline_parallel_size=32", "20 transformer", "tensor 1 x pipeline 16"]),
    ],
)
def test_layout_that_does_not_fit(world_size, tensor, pipeline, parts):
    with pytest.raises(UserError) as caught:
        layout_of(config(tensor, pipeline), world_size)
    for part in parts:
        assert part in str(caught.value)


def test_nearest_layouts_fit():
    for world_size, tensor, pipeline in itertools.product((1, 2, 6, 8), (1, 3, 8), (1, 2, 5)):
        near = nearest_layouts(MAE_BASE, world_size, tensor, pipeline)
        assert near and all(misfit(MAE_BASE, world_size, *sizes) is None for sizes in near)


def test_zero_is_refused_on_a_cpu():
    cfg = OmegaConf.create(dict(train=dict(zero_optimization=dict(enabled=True, stage=2))))
    with pytest.raises(UserError, match="zero_optimization.enabled=True.*CPU"):
        check_zero(cfg, "cpu")
    check_zero(cfg, "cuda")


def test_rdma_needs_infiniband(tmp_path):
    with pytest.raises(UserError, match="train.rdma_enabled=True.*no InfiniBand"):
        check_rdma(True, devices=tmp_path)
    check_rdma(False, devices=tmp_path)
    (tmp_path / "mlx5_0").touch()
    check_rdma(True, devices=tmp_path)


@pytest.mark.parametrize("stages", [[0, 0, 1], [0, 1, 0, 1], [0, 0, 0, 0], [0, 0, 1, 2]])
def test_stages_by_hand_must_rise(stages):
    with pytest.raises(UserError, match="rising from 0 to 1"):
        check_stages(stages, 4, 2)
    check_stages([0, 1, 1, 1], 4, 2)


def test_stages_by_hand_need_several():
    with pytest.raises(UserError, match="set train.dist.pipeline_parallel_size"):
        check_stages([0, 0, 1, 1], 4, 1)
    check_stages([0, 0, 0, 0], 4, 1)


@pytest.mark.parametrize("stages", [1, 2, 3, 4, 6])
def test_balance_is_the_best_there_is(stages):
    costs = [5, 5, 5, 2, 1, 1]

    def dearest(cuts):
        edges = [0, *cuts, len(costs)]
        return max(sum(costs[a:b]) for a, b in zip(edges, edges[1:]))

    best = min(dearest(c) for c in itertools.combinations(range(1, len(costs)), stages - 1))
    result = balance(costs, stages)
    assert result == sorted(result) and set(result) == set(range(stages))
    assert dearest([i for i in range(1, len(costs)) if result[i] != result[i - 1]]) == best


def test_encoder_and_decoder_of_vit_base_share_two_stages():
    # A decoder block sees all 197 tokens, an encoder block 50: it is the dearer one by far.
    costs = block_costs(MAE_BASE, 50, 197)
    assert costs[-1] / costs[0] == pytest.approx(1.8, abs=0.1)
    result = balance(costs, 2)
    assert result.count(0) == 13 and result.count(1) == 7


def test_what_is_left_out_is_filled_in():
    assert layout_of(config(1, 1), 1) == Layout(1, 1, 1, (0,) * 20)
    assert layout_of(config(2, 2), 8) == Layout(2, 2, 2, (0,) * 13 + (1,) * 7)
    by_hand = [0] * 4 + [1] * 16
    assert layout_of(config(1, 2, by_hand), 4) == Layout(2, 1, 2, tuple(by_hand))


@pytest.mark.parametrize(
    "micro, steps, total, expected",
    [
        (4, None, None, (4, 1, 8)),
        (4, 3, None, (4, 3, 24)),
        (None, None, 24, (12, 1, 24)),
        (None, 3, 24, (4, 3, 24)),
        (4, None, 24, (4, 3, 24)),
        (4, 3, 24, (4, 3, 24)),
    ],
)
def test_the_batch_setting_that_is_null_follows(micro, steps, total, expected):
    settings = dict(
        train_micro_batch_size=micro, num_accumulation_steps=steps, global_batch_size=total
    )
    assert batch_of(OmegaConf.create(settings), 2) == Batch(*expected)
