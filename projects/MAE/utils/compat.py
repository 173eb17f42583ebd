"""Workarounds for LiBai and OneFlow, each with its symptom and what makes it removable."""
import inspect

import oneflow as flow
from libai.utils import distributed as dist


def use_device(device_type, dist_cfg):
    """Make LiBai place every module on one kind of device.

    LiBai 0.1.1 places on CUDA wherever it is available, with no switch; LiBai's main branch
    reads `train.dist.device_type`. Sets the key, and wraps `get_layer_placement` where the
    key is not read. Removable with 0.1.1.

    Args:
        device_type: "cuda" or "cpu".
        dist_cfg: the configuration's `train.dist` node.
    """
    dist_cfg.device_type = device_type
    if hasattr(dist, "set_device_type"):  # LiBai's main branch
        dist.set_device_type(device_type)
        return
    original = getattr(dist.get_layer_placement, "original", dist.get_layer_placement)

    def get_layer_placement(layer_idx, device_type=device_type):
        return original(layer_idx, device_type)

    get_layer_placement.original = original
    dist.get_layer_placement = get_layer_placement


def ttol(tensor, pure_local=False, ranks=None):
    """Global tensor to local tensor, on whatever device it is."""
    if not tensor.is_global:
        return tensor
    placement = flow.placement(tensor.placement.type, ranks) if ranks else tensor.placement
    if pure_local:
        return tensor.to_global(placement=placement).to_local()
    sbp = dist.get_nd_sbp([flow.sbp.broadcast, flow.sbp.broadcast])
    return tensor.to_global(sbp=sbp, placement=placement).to_local()


def mend_ttol():
    """LiBai 0.1.1's `ttol(ranks=...)` names "cuda" and fails without a GPU; main asks the tensor.

    Removable with 0.1.1.
    """
    if 'flow.placement("cuda", ranks)' in inspect.getsource(dist.ttol):
        dist.ttol = ttol


mend_ttol()
