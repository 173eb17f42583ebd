"""Initial weights, the same on every parallel layout.

Each parameter is drawn with NumPy from (seed, its name) and then placed, so neither the number
of ranks nor the way a weight is split over them changes a value.
"""
import zlib

import numpy as np
import oneflow as flow

from projects.MAE.modeling.global_tensors import broadcast_sbp


def assign(parameter, array):
    """Copy a float32 NumPy array of a global parameter's shape into it, on every rank."""
    array = np.ascontiguousarray(array, dtype=np.float32)
    value = flow.from_numpy(array).to_global(placement=parameter.placement, sbp=broadcast_sbp())
    with flow.no_grad():
        parameter.copy_(value.to_global(sbp=parameter.sbp))


def named_tensors(model):
    """{name: global tensor} of all that a checkpoint keeps: parameters and running statistics."""
    return {**dict(model.named_parameters()), **dict(model.named_buffers())}


def named_generator(seed, name):
    """A NumPy generator for one parameter, independent of all others."""
    return np.random.Generator(np.random.PCG64([seed, zlib.crc32(name.encode())]))


def xavier_uniform(rng, shape, fan_in, fan_out):
    """Uniform in +-sqrt(6 / (fan_in + fan_out)) (Glorot and Bengio 2010), float32."""
    bound = np.sqrt(6.0 / (fan_in + fan_out))
    return (rng.random(shape, dtype=np.float32) * 2 - 1) * np.float32(bound)


def normal(rng, shape, std):
    """Normal with mean 0, float32."""
    return rng.standard_normal(shape, dtype=np.float32) * np.float32(std)


def truncated_normal(rng, shape, std):
    """Normal cut at +-2 (absolute, as the reference cuts it, not in units of std), float32."""
    values = normal(rng, shape, std)
    outside = np.abs(values) > 2
    while outside.any():
        values[outside] = normal(rng, int(outside.sum()), std)
        outside = np.abs(values) > 2
    return values


def initialize(model, seed, head_std=None, fixed=None):
    """Fill every parameter of a ViT: the paper's initialisation, as the authors' code has it.

    Linear weights and the patch projection are Xavier-uniform, biases zero, LayerNorm one and
    zero, class and mask tokens normal(0.02).

    Args:
        head_std: standard deviation of the truncated normal for `head.weight`.
        fixed: {parameter name: float32 array} of values that are computed, not drawn.
    """
    fixed = fixed or {}
    for name, param in model.named_parameters():
        rng = named_generator(seed, name)
        shape = tuple(param.shape)
        if name in fixed:
            value = fixed[name].reshape(shape)
        elif name.endswith("token"):
            value = normal(rng, shape, 0.02)
        elif name == "head.weight" and head_std is not None:
            value = truncated_normal(rng, shape, head_std)
        elif name.endswith("bias"):
            value = np.zeros(shape, np.float32)
        elif len(shape) == 1:  # the scale of a LayerNorm
            value = np.ones(shape, np.float32)
        elif name == "patch_embed.proj.weight":
            value = xavier_uniform(rng, shape, int(np.prod(shape[1:])), shape[0])
        else:  # [in, out]
            value = xavier_uniform(rng, shape, *shape)
        assign(param, value)
