"""The fused attention of the native CPU kernels, as a differentiable function of OneFlow tensors.

The operators `mae_attention` and `mae_attention_grad` come from csrc/ and exist once
`utils.native.load()` has returned an instruction set.
"""
import functools

import oneflow as flow
from oneflow.autograd import Function


@functools.lru_cache(maxsize=None)
def _operator(name, inputs, output):
    builder = flow._oneflow_internal.one.OpBuilder(name)
    for part in inputs:
        builder.input(part, 1)
    builder.output(output, 1)
    return builder.build()


# OneFlow 0.9 has no call that runs just any operator. Two of its calls for single operators run
# the one they are given, so the native operators have the attributes which those set, unused.


def _attention(qkv):
    operator = _operator("mae_attention", ("qkv",), "out")
    return flow._C.dispatch_ofrecord_bytes_decoder(operator, qkv, name="")


def _attention_grad(qkv, dout):
    operator = _operator("mae_attention_grad", ("qkv", "dout"), "dqkv")
    return flow._C.dispatch_distributed_partial_fc_sample(operator, qkv, dout, 0)[0]


class _Attention(Function):
    @staticmethod
    def forward(ctx, qkv):
        ctx.save_for_backward(qkv)
        return _attention(qkv)

    @staticmethod
    def backward(ctx, dout):
        (qkv,) = ctx.saved_tensors
        return _attention_grad(qkv, dout)


def attention(qkv):
    """Scaled dot-product attention, softmax(q k^T / sqrt(head_size)) v, of every head.

    Args:
        qkv: float32 [N, L, heads, 3 * head_size], a head's query, key and value side by side, on
            CPU ranks; samples and heads may be split over them.

    Returns:
        [N, L, heads, head_size].
    """
    if not (qkv.requires_grad and flow.is_grad_enabled()):
        return _attention(qkv)  # the result of a Function then crashes whatever takes it
    return _Attention.apply(qkv)
