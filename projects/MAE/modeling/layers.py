"""The layers both models share, and the only modules that differ by device.

Symptom on the CPU: OneFlow 0.9's layer_norm kernels abort the process
(`layer_norm_cpu_kernel.cpp`, unimplemented), and its broadcast of a column ([..., 1]) costs a
hundred times a matrix product with a row of ones. So on a CPU rows are standardised with matrix
products. On CUDA the layers are `libai.layers` as they are.
"""
import contextlib

import numpy as np
import oneflow as flow
from libai import layers as libai_layers
from libai.utils import distributed as dist
from oneflow import nn

from projects.MAE.modeling.native_operators import (
    attention,
    attention_branch,
    linear,
    mlp_branch,
)
from projects.MAE.runtime import native


def no_init(tensor):
    """Leave a parameter as it is: `initialization.py` fills every parameter afterwards."""
    return tensor


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

    Args:
        x: global float tensor [..., D].
        correction: 0 for the biased variance (layer normalisation), 1 for the unbiased one
            (the paper's per-patch normalisation of targets).

    Returns:
        A tensor of x's shape.
    """
    width = x.shape[-1]
    if x.placement.type == "cuda":
        centred = x - x.mean(dim=-1, keepdim=True)
        variance = (centred * centred).sum(dim=-1, keepdim=True) / (width - correction)
        return centred / (variance + eps).sqrt()
    rows = x.reshape(-1, width)
    ones = ones_like_placed(x, (width, 1))
    centred = rows - expand_column(flow.matmul(rows, ones) * (1.0 / width), width)
    variance = flow.matmul(centred * centred, ones) * (1.0 / (width - correction))
    scale = expand_column(flow.rsqrt(variance + eps), width)
    return (centred * scale).reshape(*x.shape)


class LayerNorm(libai_layers.LayerNorm):
    """`libai.layers.LayerNorm` that also runs on a CPU. Shapes, names and eps are the same."""

    def forward(self, x):
        if x.placement.type == "cuda" or uses_native(x):
            # Not super(): in a graph, self is a proxy that is no instance of this class.
            return libai_layers.LayerNorm.forward(self, x)
        return standardize_rows(x, self.eps) * self.weight + self.bias


class Linear(nn.Module):
    """x W + b with W [in_features, out_features]: `libai.layers.Linear`, the same in every LiBai.

    Symptoms: LiBai 0.1.1 stores [in, out] and its main branch [out, in], so that weights would not
    travel, and a square one would be taken the wrong way round. 0.1.1 also splits the batch of an
    unsplit layer a second time, over the tensor-parallel ranks: "cannot be splitted by
    parallel_num" where a rank has few rows, and with data parallelism beside it OneFlow 0.9
    aborts on a CPU (`register.cpp:75`). Removable with 0.1.1, if weights are then transposed.

    Args:
        parallel: what the tensor-parallel ranks share out: "col" the output features, "row" the
            input features, "data" nothing.
    """

    def __init__(self, in_features, out_features, parallel="data", *, layer_idx):
        super().__init__()
        self.row = parallel == "row"
        whole = flow.sbp.broadcast
        weight, bias = {
            "data": (whole, whole),
            "col": (flow.sbp.split(1), flow.sbp.split(0)),
            "row": (flow.sbp.split(0), whole),
        }[parallel]
        self.weight = parameter((in_features, out_features), tensor_sbp=weight, layer_idx=layer_idx)
        self.bias = parameter((out_features,), tensor_sbp=bias, layer_idx=layer_idx)

    def forward(self, x, residual=None, gelu=False):
        """f(x) W + b + residual, with f GELU if asked for.

        [N, ..., in_features] and [N, ..., out_features] or None -> [N, ..., out_features], all
        split by samples.
        """
        features = flow.sbp.split(x.ndim - 1) if self.row else flow.sbp.broadcast
        sbp = dist.get_nd_sbp([flow.sbp.split(0), features])
        x = x.to_global(sbp=sbp, grad_sbp=sbp)
        shared = self.row and dist.get_tensor_parallel_size() > 1
        if uses_native(x) and not shared:
            return linear(x, self.weight, self.bias, residual, gelu)
        if uses_native(x):
            y = linear(x, self.weight, gelu=gelu)
        else:
            y = flow.matmul(flow._C.gelu(x) if gelu else x, self.weight)
        if self.row:
            y = y.to_global(sbp=batch_sbp())  # the sum over the ranks that share the features
        y = y + self.bias
        # The new tensor first: a sum may take the memory of its first term.
        return y if residual is None else y + residual


def uses_native(x):
    """Whether the native kernels work on the global tensor x."""
    return x.placement.type == "cpu" and native.load() is not None


def is_one_operator(x):
    """Whether a branch of a transformer block on x is a single native operator.

    Where tensor-parallel ranks share a branch they have to talk in the middle of it.
    """
    return uses_native(x) and dist.get_tensor_parallel_size() == 1


def drop_path_scale(noise, drop_prob):
    """Stochastic depth (Huang et al., arXiv 1603.09382) with its randomness as an input.

    Args:
        noise: float32 [N, 1] in [0, 1), one draw a sample; a sample is dropped where
            noise < drop_prob.
        drop_prob: probability of dropping a sample's branch.

    Returns:
        [N, 1], by what a branch is multiplied: 0 for the dropped samples, 1 / (1 - drop_prob) for
        the others.
    """
    return (noise >= drop_prob).to(noise.dtype) * (1.0 / (1.0 - drop_prob))


def add_branch(x, norm, layer, scale):
    """x [N, L, D] plus layer(norm(x)), times the scale [N, 1] of each sample or None for 1."""
    if scale is None:
        return layer(norm(x), x)
    y = layer(norm(x))
    return y * expand_column(scale, y.shape[1] * y.shape[2]).reshape(*y.shape) + x


class SelfAttention(libai_layers.MultiheadAttention):
    """`libai.layers.MultiheadAttention` without masks, with this file's linear layers.

    With the native CPU kernels the part between the two layers is a single operator.
    """

    def __init__(self, hidden_size, num_heads, *, layer_idx):
        super().__init__(hidden_size, num_heads, init_method=no_init, layer_idx=layer_idx)
        self.query_key_value = Linear(hidden_size, 3 * hidden_size, "col", layer_idx=layer_idx)
        self.dense = Linear(hidden_size, hidden_size, "row", layer_idx=layer_idx)

    def forward(self, x, residual=None):
        """[N, L, D], and the same or None, which is added -> [N, L, D]."""
        if not uses_native(x):
            # Not super(): in a graph, self is a proxy that is no instance of this class.
            y = libai_layers.MultiheadAttention.forward(self, x)
            return y if residual is None else y + residual
        return self.dense(attention(self.query_key_value(x), self.head_size), residual)


class MLP(libai_layers.MLP):
    """`libai.layers.MLP` with this file's linear layers.

    With the native CPU kernels GELU is a part of the second layer.
    """

    def __init__(self, hidden_size, inner_size, *, layer_idx):
        super().__init__(hidden_size, inner_size, init_method=no_init, layer_idx=layer_idx)
        self.dense_h_to_4h = Linear(hidden_size, inner_size, "col", layer_idx=layer_idx)
        self.dense_4h_to_h = Linear(inner_size, hidden_size, "row", layer_idx=layer_idx)

    def forward(self, x, residual=None):
        """[N, L, D], and the same or None, which is added -> [N, L, D]."""
        if not uses_native(x):
            y = libai_layers.MLP.forward(self, x)
            return y if residual is None else y + residual
        return self.dense_4h_to_h(self.dense_h_to_4h(x), residual, gelu=True)


class TransformerLayer(libai_layers.TransformerLayer):
    """A pre-norm transformer block: `libai.layers.TransformerLayer` with three differences.

    Its LayerNorm runs on a CPU, its linear layers are this file's, and the randomness of
    stochastic depth comes in as data instead of being drawn on each rank, so that ranks which
    hold the same samples drop the same ones.
    """

    def __init__(self, hidden_size, num_heads, mlp_ratio, eps, drop_path_prob=0.0, *, layer_idx):
        super().__init__(
            hidden_size=hidden_size,
            ffn_hidden_size=int(hidden_size * mlp_ratio),
            num_attention_heads=num_heads,
            layernorm_epsilon=eps,
            init_method=no_init,
            layer_idx=layer_idx,
        )
        self.drop_path_prob = drop_path_prob
        self.input_layernorm = LayerNorm(hidden_size, eps=eps, layer_idx=layer_idx)
        self.post_attention_layernorm = LayerNorm(hidden_size, eps=eps, layer_idx=layer_idx)

        self.self_attention = SelfAttention(hidden_size, num_heads, layer_idx=layer_idx)
        self.mlp = MLP(hidden_size, self.ffn_hidden_size, layer_idx=layer_idx)

    def forward(self, hidden_states, drop_path_noise=None, ids=None, pool=False):
        """A block, which may leave out what nobody asks for after it.

        Args:
            hidden_states: [N, L, D].
            drop_path_noise: float32 [N, 2], draws for the two branches, or None.
            ids: the tokens that are wanted, int64 [N, M] or a slice; None for all.
            pool: whether the mean over all tokens but the first is wanted.

        Returns:
            [N, L, D]; [N, M, D] of `ids`; with `pool` [N, D], in float32.
        """
        placement = dist.get_layer_placement(self.layer_idx)
        hidden_states = hidden_states.to_global(placement=placement)
        scales = None, None
        if self.training and self.drop_path_prob > 0 and drop_path_noise is not None:
            noise = drop_path_noise.to_global(placement=placement)
            scales = [drop_path_scale(noise[:, i : i + 1], self.drop_path_prob) for i in (0, 1)]
        x = self.attention_branch(hidden_states, scales[0])
        # The MLP takes each token by itself, so that only those that are wanted need it.
        if isinstance(ids, slice):
            x = x[:, ids]
        elif ids is not None:
            x = flow._C.batch_gather(x, ids.to_global(placement=placement))
        return self.pooled_mlp_branch(x, scales[1]) if pool else self.mlp_branch(x, scales[1])

    def attention_branch(self, x, scale):
        """x [N, L, D] plus attention of the normalised x, times scale [N, 1] or None for 1."""
        norm, layer = self.input_layernorm, self.self_attention
        if is_one_operator(x):
            layers = layer.query_key_value, layer.dense
            return attention_branch(x, norm, *layers, layer.head_size, scale)
        return add_branch(x, norm, layer, scale)

    def mlp_branch(self, x, scale):
        """x [N, L, D] plus the MLP of the normalised x, times scale [N, 1] or None for 1."""
        norm, layer = self.post_attention_layernorm, self.mlp
        if is_one_operator(x):
            layers = layer.dense_h_to_4h, layer.dense_4h_to_h
            return mlp_branch(x, norm, *layers, scale)
        return add_branch(x, norm, layer, scale)

    def pooled_mlp_branch(self, x, scale):
        """The mean of `mlp_branch` over all tokens but the first, [N, D], in float32.

        On a CPU the MLP's second layer, which is linear, is given the mean alone.
        """
        if not uses_native(x):
            return in_float32(self.mlp_branch(x, scale)[:, 1:]).mean(dim=1)
        x = x[:, 1:]
        hidden = self.mlp.dense_h_to_4h(self.post_attention_layernorm(x))
        y = self.mlp.dense_4h_to_h(flow._C.gelu(hidden).mean(dim=1))
        return x.mean(dim=1) + (y if scale is None else y * expand_column(scale, y.shape[1]))


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
