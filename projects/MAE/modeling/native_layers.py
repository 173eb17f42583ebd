"""The layers on a CPU with the native kernels: operators of their own, in place of several of OneFlow's.

Parameters, names and results are those of `layers.py`.
"""
import oneflow as flow
from libai.utils import distributed as dist

from projects.MAE.modeling.global_tensors import expand_column
from projects.MAE.modeling.layers import MLP, Linear, SelfAttention, TransformerLayer
from projects.MAE.modeling.one_operator import attention, attention_branch, linear, mlp_branch


class NativeLinear(Linear):
    """`Linear` in one operator, but for the sum over ranks that share the features."""

    def forward(self, x, residual=None, gelu=False):
        """f(x) W + b + residual, with f GELU if asked for."""
        x = self.split(x)
        if self.row and dist.get_tensor_parallel_size() > 1:
            return self.finish(linear(x, self.weight, gelu=gelu), residual)
        return linear(x, self.weight, self.bias, residual, gelu)


class NativeSelfAttention(SelfAttention):
    """`SelfAttention` with a single operator between its two linear layers."""

    Linear = NativeLinear

    def forward(self, x, residual=None):
        """[N, L, D], and the same or None, which is added -> [N, L, D]."""
        return self.dense(attention(self.query_key_value(x), self.head_size), residual)


class NativeMLP(MLP):
    """`MLP` with GELU as a part of its second layer."""

    Linear = NativeLinear

    def forward(self, x, residual=None):
        """[N, L, D], and the same or None, which is added -> [N, L, D]."""
        return self.dense_4h_to_h(self.dense_h_to_4h(x), residual, gelu=True)


class NativeTransformerLayer(TransformerLayer):
    """`TransformerLayer` whose tensor-parallel ranks talk in the middle of a branch."""

    SelfAttention, MLP = NativeSelfAttention, NativeMLP

    def pooled_mlp_branch(self, x, scale):
        """As there; the MLP's second layer, which is linear, is given the mean alone."""
        x = x[:, 1:]
        hidden = self.mlp.dense_h_to_4h(self.post_attention_layernorm(x))
        y = self.mlp.dense_4h_to_h(flow._C.gelu(hidden).mean(dim=1))
        return x.mean(dim=1) + (y if scale is None else y * expand_column(scale, y.shape[1]))


class OneOperatorLayer(NativeTransformerLayer):
    """`TransformerLayer` whose branches are one operator each; one rank computes them whole."""

    def attention_branch(self, x, scale):
        layer = self.self_attention
        linears = layer.query_key_value, layer.dense
        return attention_branch(x, self.input_layernorm, *linears, layer.head_size, scale)

    def mlp_branch(self, x, scale):
        linears = self.mlp.dense_h_to_4h, self.mlp.dense_4h_to_h
        return mlp_branch(x, self.post_attention_layernorm, *linears, scale)
