"""The layers of a transformer block, as LiBai has them; which classes a model takes: `layer_kinds.py`."""
import oneflow as flow
from libai import layers as libai_layers
from libai.utils import distributed as dist
from oneflow import nn

from projects.MAE.modeling.global_tensors import (
    batch_sbp,
    expand_column,
    in_float32,
    parameter,
    standardize_rows,
)

LayerNorm = libai_layers.LayerNorm


class LayerNormOfRows(LayerNorm):
    """`LayerNorm` on a CPU without a kernel for it.

    Symptom: that of OneFlow 0.9 aborts the process (`layer_norm_cpu_kernel.cpp`, unimplemented).
    """

    def forward(self, x):
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

    def forward(self, x, residual=None):
        """x W + b + residual: x [N, ..., in_features], the others [N, ..., out_features]."""
        return self.finish(flow.matmul(self.split(x), self.weight), residual)

    def split(self, x):
        """x [N, ..., in_features], its features split as the weight's are."""
        features = flow.sbp.split(x.ndim - 1) if self.row else flow.sbp.broadcast
        sbp = dist.get_nd_sbp([flow.sbp.split(0), features])
        return x.to_global(sbp=sbp, grad_sbp=sbp)

    def finish(self, y, residual):
        """x W [N, ..., out_features] + b + residual."""
        if self.row:
            y = y.to_global(sbp=batch_sbp())  # the sum over the ranks that share the features
        y = y + self.bias
        # The new tensor first: a sum may take the memory of its first term.
        return y if residual is None else y + residual


def no_init(tensor):
    """Leave a parameter as it is: `initialization.py` fills every parameter afterwards."""
    return tensor


def drop_path_scale(noise, drop_prob):
    """Stochastic depth (Huang et al., arXiv 1603.09382) with its randomness as an input.

    Args:
        noise: float32 [N, 1] in [0, 1); a sample is dropped where it is below drop_prob.

    Returns:
        [N, 1], by what a branch is multiplied: 0 for the dropped samples, else 1 / (1 - drop_prob).
    """
    return (noise >= drop_prob).to(noise.dtype) * (1.0 / (1.0 - drop_prob))


def add_branch(x, norm, layer, scale):
    """x [N, L, D] plus layer(norm(x)), times the scale [N, 1] of each sample or None for 1."""
    if scale is None:
        return layer(norm(x), x)
    y = layer(norm(x))
    return y * expand_column(scale, y.shape[1] * y.shape[2]).reshape(*y.shape) + x


class SelfAttention(libai_layers.MultiheadAttention):
    """`libai.layers.MultiheadAttention` without masks, with this file's linear layers."""

    Linear = Linear

    def __init__(self, hidden_size, num_heads, *, layer_idx):
        super().__init__(hidden_size, num_heads, init_method=no_init, layer_idx=layer_idx)
        self.query_key_value = self.Linear(hidden_size, 3 * hidden_size, "col", layer_idx=layer_idx)
        self.dense = self.Linear(hidden_size, hidden_size, "row", layer_idx=layer_idx)

    def forward(self, x, residual=None):
        """[N, L, D], and the same or None, which is added -> [N, L, D]."""
        # Not super(): in a graph, self is a proxy that is no instance of this class.
        y = libai_layers.MultiheadAttention.forward(self, x)
        return y if residual is None else y + residual


class MLP(libai_layers.MLP):
    """`libai.layers.MLP` with this file's linear layers."""

    Linear = Linear

    def __init__(self, hidden_size, inner_size, *, layer_idx):
        super().__init__(hidden_size, inner_size, init_method=no_init, layer_idx=layer_idx)
        self.dense_h_to_4h = self.Linear(hidden_size, inner_size, "col", layer_idx=layer_idx)
        self.dense_4h_to_h = self.Linear(inner_size, hidden_size, "row", layer_idx=layer_idx)

    def forward(self, x, residual=None):
        """[N, L, D], and the same or None, which is added -> [N, L, D]."""
        y = libai_layers.MLP.forward(self, x)
        return y if residual is None else y + residual


class TransformerLayer(libai_layers.TransformerLayer):
    """A pre-norm transformer block: `libai.layers.TransformerLayer` with two differences.

    Its linear layers are this file's, and the randomness of stochastic depth comes in as data instead
    of being drawn on each rank, so that ranks which hold the same samples drop the same ones.
    """

    LayerNorm, SelfAttention, MLP = LayerNorm, SelfAttention, MLP

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
        self.input_layernorm = self.LayerNorm(hidden_size, eps=eps, layer_idx=layer_idx)
        self.post_attention_layernorm = self.LayerNorm(hidden_size, eps=eps, layer_idx=layer_idx)
        self.self_attention = self.SelfAttention(hidden_size, num_heads, layer_idx=layer_idx)
        self.mlp = self.MLP(hidden_size, self.ffn_hidden_size, layer_idx=layer_idx)

    def forward(self, hidden_states, drop_path_noise=None, ids=None, pool=False):
        """[N, L, D] through a block, which may leave out what nobody asks for after it.

        Args:
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
        return add_branch(x, self.input_layernorm, self.self_attention, scale)

    def mlp_branch(self, x, scale):
        """x [N, L, D] plus the MLP of the normalised x, times scale [N, 1] or None for 1."""
        return add_branch(x, self.post_attention_layernorm, self.mlp, scale)

    def pooled_mlp_branch(self, x, scale):
        """The mean of `mlp_branch` over all tokens but the first, [N, D], in float32."""
        return in_float32(self.mlp_branch(x, scale)[:, 1:]).mean(dim=1)
