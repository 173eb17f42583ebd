"""Global tensors: SBP signatures, parameters, float32, and what OneFlow broadcasts slowly on a CPU."""
import contextlib

import numpy as np
import oneflow as flow
from libai.utils import distributed as dist
from oneflow import nn


def broadcast_sbp():
    """The SBP signature of a tensor that every rank of a placement holds whole."""
    return dist.get_nd_sbp([flow.sbp.broadcast, flow.sbp.broadcast])


def batch_sbp():
    """The SBP signature of activations: split by samples over the data-parallel ranks."""
    return dist.get_nd_sbp([flow.sbp.split(0), flow.sbp.broadcast])


def as_input(array):
    """This rank's rows, a float32 NumPy array [n, ...], as the global tensor that a model takes."""
    tensor = flow.from_numpy(np.ascontiguousarray(array))
    return tensor.to_global(sbp=batch_sbp(), placement=dist.get_layer_placement(0))


_mixed_precision = False  # whether the graph that is being built has OneFlow's


@contextlib.contextmanager
def mixed_precision(enabled):
    """Let `in_float32` keep its word in a graph with OneFlow's mixed precision, while it is built."""
    global _mixed_precision
    before, _mixed_precision = _mixed_precision, enabled
    try:
        yield
    finally:
        _mixed_precision = before


def in_float32(x):
    """x in float32, and what follows computed in float32 until the next matrix product.

    Symptom without it: OneFlow's mixed precision goes by the operators alone. It knows no `float()`,
    has sums and products between two matrix products computed in half precision, and the squared
    errors of a batch exceed its largest number, 65504: the loss was infinite in the first step.
    The same holds for the gradients on their way back.
    """
    x = x.float()
    return flow._C.amp_black_identity(x) if _mixed_precision else x


def ones_like_placed(x, shape, sbp=None):
    """float32 ones of a shape on the placement of the global tensor x, broadcast by default."""
    sbp = sbp or broadcast_sbp()
    return flow._C.global_constant(shape, 1.0, dtype=x.dtype, placement=x.placement, sbp=sbp)


def expand_column(column, width):
    """[..., M, 1] -> [..., M, width], as a matrix product with a row of ones."""
    return flow.matmul(column, ones_like_placed(column, (1, width)))


def standardize_rows(x, eps, correction=0):
    """(x - mean) / sqrt(variance + eps) over the last axis.

    Symptom that asks for another way on a CPU: OneFlow 0.9's broadcast of a column ([..., 1]) costs a
    hundred times a matrix product with a row of ones. On a GPU mixed precision would halve those.

    Args:
        x: global float tensor [..., D].
        correction: 0 for the biased variance (layer normalisation), 1 for the unbiased one
            (the paper's per-patch normalisation of targets).
    """
    standardize = _standardize_by_means if x.placement.type == "cuda" else _standardize_by_products
    return standardize(x, eps, correction)


def _standardize_by_means(x, eps, correction):
    centred = x - x.mean(dim=-1, keepdim=True)
    variance = (centred * centred).sum(dim=-1, keepdim=True) / (x.shape[-1] - correction)
    return centred / (variance + eps).sqrt()


def _standardize_by_products(x, eps, correction):
    width = x.shape[-1]
    rows = x.reshape(-1, width)
    ones = ones_like_placed(x, (width, 1))
    centred = rows - expand_column(flow.matmul(rows, ones) * (1.0 / width), width)
    variance = flow.matmul(centred * centred, ones) * (1.0 / (width - correction))
    scale = expand_column(flow.rsqrt(variance + eps), width)
    return (centred * scale).reshape(*x.shape)


def parameter(shape, *, layer_idx, tensor_sbp=flow.sbp.broadcast, requires_grad=True):
    """A float32 parameter of zeros on the ranks of a layer's pipeline stage.

    Every data-parallel rank holds it whole; `tensor_sbp` says what each tensor-parallel rank holds.
    """
    zeros = flow.zeros(
        shape,
        dtype=flow.float32,
        placement=dist.get_layer_placement(layer_idx),
        sbp=dist.get_nd_sbp([flow.sbp.broadcast, tensor_sbp]),
    )
    return nn.Parameter(zeros, requires_grad=requires_grad)


def repeat_token(token, like, count):
    """A token [1, 1, D] -> [N, count, D], N and placement as in `like` [N, ...].

    A matrix product of ones, split as the batch is, with the token: each rank makes the rows
    of its own samples, and the gradient is summed where it arises.
    """
    n, width = like.shape[0], token.shape[-1]
    ones = ones_like_placed(like, (n * count, 1), sbp=batch_sbp())
    return flow.matmul(ones, token.reshape(1, width)).reshape(n, count, width)
