"""The learning rate of every step of the paper's runs (tests/golden/lr_schedules.json)."""
import json

import numpy as np
import oneflow as flow
import pytest

from projects.MAE.optim.schedule import warmup_cosine_lr
from tests.conftest import DATA

RUNS = json.loads((DATA / "lr_schedules.json").read_text())


@pytest.mark.parametrize("run", RUNS)
def test_every_step_of_a_run(run):
    golden = RUNS[run]
    steps = golden["steps_per_epoch"]
    groups = [
        {"params": [flow.nn.Parameter(flow.zeros(1))], "lr_scale": scale} for scale in (1.0, 0.25)
    ]
    optimizer = flow.optim.SGD(groups, lr=golden["lr"])
    scheduler = warmup_cosine_lr(
        optimizer,
        max_iter=golden["epochs"] * steps,
        warmup_iter=golden["warmup_epochs"] * steps,
        min_lr=golden["min_lr"],
    )
    unscaled, scaled = [], []
    for _ in golden["lr_per_step"]:
        unscaled.append(scheduler.get_last_lr()[1])
        scaled.append(optimizer.param_groups[1]["lr"])
        scheduler.step()
    expected = np.array(golden["lr_per_step"])
    np.testing.assert_allclose(unscaled, expected, rtol=1e-9, atol=1e-15)
    np.testing.assert_allclose(scaled, expected * 0.25, rtol=1e-9, atol=1e-15)


def test_without_warm_up_the_rate_starts_at_its_peak():
    optimizer = flow.optim.SGD([flow.nn.Parameter(flow.zeros(1))], lr=1.0)
    scheduler = warmup_cosine_lr(optimizer, max_iter=4, warmup_iter=0)
    assert scheduler.get_last_lr() == [1.0]
