"""The operators that the native CPU kernels add to OneFlow, as differentiable functions.

They exist once `utils.native.load()` has returned an instruction set. Tensors are float32 and
global, on CPU ranks.
"""
import functools

import oneflow as flow
from oneflow.autograd import Function

from projects.MAE.utils.native import call


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


_NAMES = [
    ("x", "weight"),
    ("x", "weight", "bias"),
    ("x", "weight", "residual"),
    ("x", "weight", "bias", "residual"),
]
_LINEAR = {(n, gelu): _linear_function(n, gelu) for n in _NAMES for gelu in (False, True)}


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
    return _differentiable(_LINEAR[tuple(given), gelu], *given.values())


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
