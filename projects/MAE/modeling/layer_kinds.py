"""Which classes a model's layers are of: chosen once, when it is built, by device and kernels."""
from dataclasses import dataclass

from libai.utils import distributed as dist

from projects.MAE.modeling.layers import LayerNorm, LayerNormOfRows, Linear, TransformerLayer
from projects.MAE.modeling.native_layers import (
    NativeLinear,
    NativeTransformerLayer,
    OneOperatorLayer,
)
from projects.MAE.runtime import native


class TransformerLayerOfRows(TransformerLayer):
    """`TransformerLayer` on a CPU without the native kernels."""

    LayerNorm = LayerNormOfRows


@dataclass(frozen=True)
class LayerKinds:
    """Classes of layers, to be called as those of `layers.py` are.

    To add a kind of device, subclass what differs there and name it in `layer_kinds`.
    """

    LayerNorm: type
    Linear: type
    TransformerLayer: type


def layer_kinds():
    """The `LayerKinds` for the device that LiBai places layers on."""
    if dist.get_layer_placement(0).type == "cuda":
        return LayerKinds(LayerNorm, Linear, TransformerLayer)
    if native.load("cpu") is None:
        return LayerKinds(LayerNormOfRows, Linear, TransformerLayerOfRows)
    if dist.get_tensor_parallel_size() > 1:
        return LayerKinds(LayerNorm, NativeLinear, NativeTransformerLayer)
    return LayerKinds(LayerNorm, NativeLinear, OneOperatorLayer)
