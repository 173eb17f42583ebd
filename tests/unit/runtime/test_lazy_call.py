"""What a configuration calls gets arguments of its own, and a call that can't be is one line."""
import threading

import pytest
from libai.config import LazyCall
from omegaconf import OmegaConf

from projects.MAE.data.mixup import Mixup
from projects.MAE.errors import UserError
from projects.MAE.runtime.lazy_call import call, instantiate


class Options:
    """Fills in its options, as many classes do."""

    def __init__(self, options, held=None):
        options["b"] = 2
        self.options, self.held = options, held


class Holder:
    def __init__(self):
        self.lock = threading.Lock()


def read_only(**values):
    node = OmegaConf.create(values, flags={"allow_objects": True})
    OmegaConf.set_readonly(node, True)
    return node


@pytest.mark.parametrize("make", [instantiate, call])
def test_what_is_made_may_write_into_its_arguments(make):
    cfg = read_only(size=7, made=LazyCall(Options)(options=dict(a="${size}")))
    made = make(cfg.made)
    assert made.options == {"a": 7, "b": 2}
    assert cfg.made.options == {"a": 7}  # the configuration is as it was


def test_objects_are_handed_on_as_they_are():
    holder = Holder()
    cfg = read_only(made=LazyCall(Options)(options={}, held=holder))
    assert isinstance(instantiate(cfg.made).held, Holder)
    mixup = instantiate(LazyCall(Options)(options={}, held=Mixup(num_classes=3))).held
    assert isinstance(mixup, Mixup) and mixup.num_classes == 3


def test_arguments_that_are_not_taken():
    with pytest.raises(UserError, match="Options is called with options, steps, and can't be: .*steps"):
        call(LazyCall(Options)(options={}), steps=3)
