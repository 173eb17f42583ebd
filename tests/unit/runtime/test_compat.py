"""What is changed in OneFlow and LiBai takes effect."""
import subprocess
import sys

import numpy as np
import oneflow as flow
import pytest
from hydra.errors import InstantiationException
from libai.config import LazyCall
from libai.data.structures import DistTensorData, Instance
from libai.engine.trainer import TrainerBase
from libai.utils.events import EventStorage

from projects.MAE.data.build import to_global
from projects.MAE.errors import UserError
from projects.MAE.modeling.global_tensors import as_input
from projects.MAE.runtime.compat import log_loss
from projects.MAE.runtime.lazy_call import instantiate

THREADS_OF_A_GRAPH = """
import oneflow as flow
from oneflow.framework.session_context import GetDefaultSession
from projects.MAE.runtime.compat import compute_on_one_thread

class Double(flow.nn.Graph):
    def build(self, x):
        return x + x

compute_on_one_thread()
assert Double()(flow.ones(2)).tolist() == [2, 2]
print("threads", GetDefaultSession().resource.cpu_device_num)
"""


def test_a_graph_computes_on_one_thread():
    # A setting made before OneFlow's session began was replaced by the number of processors.
    done = subprocess.run(
        [sys.executable, "-c", THREADS_OF_A_GRAPH], stdout=subprocess.PIPE, text=True, check=True
    )
    assert done.stdout.split()[-2:] == ["threads", "1"]


@pytest.mark.parametrize("loss, finite", [(0.5, True), (float("nan"), False), (float("inf"), False)])
def test_a_loss_that_is_not_finite_is_told(loss, finite):
    # LiBai 0.1.1 raises an exception in its place, LiBai's main branch logs it.
    with EventStorage(0) as storage:
        losses = {"losses": as_input(np.array([loss], np.float32)).mean()}
        assert log_loss(lambda: TrainerBase.write_metrics(losses, 0.0), storage) == finite
    with EventStorage(0) as storage:
        assert log_loss(lambda: storage.put_scalar("total_loss", loss), storage) == finite


def mistake(of_the_user=True):
    raise UserError("a mistake") if of_the_user else ValueError("a defect")


def wrapped():
    """A constructor as LiBai's main branch calls it."""
    try:
        mistake()
    except UserError as error:
        raise InstantiationException("Error in call to target") from error


@pytest.mark.parametrize("target", [mistake, wrapped])
def test_a_mistake_found_in_a_constructor_stays_one(target):
    with pytest.raises(UserError, match="^a mistake$"):
        instantiate(LazyCall(target)())


def test_a_defect_in_a_constructor_stays_one():
    with pytest.raises((ValueError, InstantiationException), match="a defect"):
        instantiate(LazyCall(mistake)(of_the_user=False))


def test_a_batch_is_on_the_device_of_the_model(monkeypatch):
    # LiBai's main branch puts a batch on a GPU wherever there is one.
    monkeypatch.setattr("oneflow.cuda.is_available", lambda: True)
    data = Instance(labels=DistTensorData(flow.zeros(2), placement_idx=-1))
    assert to_global(data)["labels"].placement.type == "cpu"
