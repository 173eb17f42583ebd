"""The operators that the native CPU kernels add to OneFlow, as differentiable functions.

They exist once `runtime.native.load()` has returned an instruction set. Tensors are float32 and
global, on CPU ranks.
"""
import functools

import oneflow as flow
from oneflow.autograd import Function

from projects.MAE.runtime.native import call


@functools.lru_cache(maxsize=None)
def _attention_function(head_size):
    class Attention(Function):
        @staticmethod
        def forward(ctx, qkv):
            ctx.save_for_backward(qkv)
            return call("mae_attention", {"qkv": qkv}, ["out"], head_size=head_size)[0]

        @staticmethod
        def backward(ctx, dout):
            (qkv,) = ctx.saved_tensors
            inputs = {"qkv": qkv, "dout": dout}
            return call("mae_attention_grad", inputs, ["dqkv"], head_size=head_size)[0]

    return Attention


def attention(qkv, head_size):
    """Scaled dot-product attention, softmax(q k^T / sqrt(head_size)) v, of every head.

    Args:
        qkv: [N, L, heads * 3 * head_size], a head's query, key and value side by side; samples and
            heads may be split over ranks.

    Returns:
        [N, L, heads * head_size].
    """
    return _differentiable(_attention_function(head_size), qkv)


@functools.lru_cache(maxsize=None)
def _linear_function(names, gelu):
    """The Function of a linear layer with the inputs of these names."""

    class Linear(Function):
        @staticmethod
        def forward(ctx, *inputs):
            ctx.save_for_backward(inputs[0], inputs[1])
            return call("mae_linear", dict(zip(names, inputs)), ["y"], gelu=gelu)[0]

        @staticmethod
        def backward(ctx, dy):
            x, weight = ctx.saved_tensors
            inputs = {"x": x, "weight": weight, "dy": dy}
            grads = call("mae_linear_grad", inputs, ["dx", "dweight", "dbias"], gelu=gelu)
            found = dict(zip(["x", "weight", "bias"], grads), residual=dy)
            return tuple(found[name] for name in names)

    return Linear


def linear(x, weight, bias=None, residual=None, gelu=False):
    """f(x) weight + bias + residual, with f GELU or nothing, and no tensor in between.

    Args:
        x: [..., in]; split by rows, or by features where neither bias nor residual is given, and
            then a partial sum comes out.
        weight: [in, out]; rows or columns may be split.
        bias: [out] or None.
        residual: [..., out] or None.

    Returns:
        [..., out].
    """
    given = {"x": x, "weight": weight, "bias": bias, "residual": residual}
    given = {name: tensor for name, tensor in given.items() if tensor is not None}
    return _differentiable(_linear_function(tuple(given), gelu), *given.values())


@functools.lru_cache(maxsize=None)
def _branch_function(name, kept, scaled, attributes):
    """The Function of a branch of a transformer block; `kept` names what its backward pass needs."""
    attributes = dict(attributes)
    names = (*_BRANCH_INPUTS, "scale") if scaled else _BRANCH_INPUTS

    class Branch(Function):
        @staticmethod
        def forward(ctx, *inputs):
            y, *others = call(name, dict(zip(names, inputs)), ["y", *kept], **attributes)
            ctx.save_for_backward(*inputs, *others)
            return y

        @staticmethod
        def backward(ctx, dy):
            given = dict(zip((*names, *kept), ctx.saved_tensors), dy=dy)
            grads = call(f"{name}_grad", given, _BRANCH_GRADS, **attributes)
            return (*grads, None) if scaled else tuple(grads)

    return Branch


_BRANCH_INPUTS = ("x", "gamma", "beta", "weight1", "bias1", "weight2", "bias2")
_BRANCH_GRADS = tuple("d" + name for name in _BRANCH_INPUTS)


def attention_branch(x, norm, first, second, head_size, scale=None):
    """x + scale dense(attention(dense(norm(x)))).

    Args:
        x: [N, L, D]; samples may be split over ranks.
        norm: a LayerNorm of D features.
        first, second: linear layers, weights [D, 3 * inner] and [inner, D], the first's features a
            head's query, key and value side by side. The weights are whole on every rank.
        scale: float32 [N, 1], split as x is, or None for 1. No gradient goes to it. Where it is 0
            the branch of a sample is not computed.

    Returns:
        [N, L, D].
    """
    attributes = ("epsilon", float(norm.eps)), ("head_size", head_size)
    return _branch("mae_attention_branch", ("qkv", "mixed"), attributes, x, norm, first, second, scale)


def mlp_branch(x, norm, first, second, scale=None):
    """x + scale dense(gelu(dense(norm(x)))); arguments as of `attention_branch`, inner = hidden."""
    attributes = (("epsilon", float(norm.eps)),)
    return _branch("mae_mlp_branch", ("hidden",), attributes, x, norm, first, second, scale)


def _branch(name, kept, attributes, x, norm, first, second, scale):
    inputs = [x, norm.weight, norm.bias, first.weight, first.bias, second.weight, second.bias]
    if scale is not None:
        inputs.append(scale)
    return _differentiable(_branch_function(name, kept, scale is not None, attributes), *inputs)


def _differentiable(function, *inputs):
    """function.apply, or its forward alone where nothing needs a gradient.

    OneFlow 0.9 crashes in whatever takes the result of a Function that needs none.
    """
    if flow.is_grad_enabled() and any(x.requires_grad for x in inputs):
        return function.apply(*inputs)
    return function.forward(_NoContext, *inputs)


class _NoContext:
    @staticmethod
    def save_for_backward(*tensors):
        pass
