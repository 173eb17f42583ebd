"""Weights between the layout of the authors' PyTorch files and LiBai's."""
import re

import numpy as np

from projects.MAE.errors import UserError

# LiBai's names of a transformer block's parts, by PyTorch's.
BLOCK_PARTS = {
    "norm1": "input_layernorm",
    "attn.qkv": "self_attention.query_key_value",
    "attn.proj": "self_attention.dense",
    "norm2": "post_attention_layernorm",
    "mlp.fc1": "mlp.dense_h_to_4h",
    "mlp.fc2": "mlp.dense_4h_to_h",
}
TORCH_PARTS = {libai: torch for torch, libai in BLOCK_PARTS.items()}
# The layouts of LiBai checkpoints: this project's (LiBai 0.1.1's), and LiBai's main branch's.
OURS, MAIN = "[in, out]", "[out, in]"
BLOCK_NAME = re.compile(r"^((?:decoder_)?blocks\.\d+)\.(.+)\.(weight|bias)$")


def torch_name(name):
    """The authors' name of a tensor that LiBai calls `name`."""
    return _rename(name, TORCH_PARTS)


def torch_shape(name, shape):
    """The shape that a tensor of this name has in the authors' files."""
    return shape[::-1] if name.endswith("weight") and len(shape) == 2 else shape


def _rename(name, parts):
    match = BLOCK_NAME.match(name)
    if not match:
        return name
    block, part, kind = match.groups()
    return f"{block}.{parts.get(part, part)}.{kind}"


def _transposed(name, array):
    return array.T if name.endswith("weight") and array.ndim == 2 else array


def _regrouped(array, outer, inner):
    """The rows of a fused query-key-value, in `outer` groups of `inner`, the other way round."""
    grouped = array.reshape(outer, inner, -1, *array.shape[1:])
    return np.swapaxes(grouped, 0, 1).reshape(array.shape)


def torch_to_libai(state_dict, num_heads, decoder_num_heads=None):
    """The authors' names and layouts to LiBai's.

    LiBai stores a linear weight as [in, out], PyTorch as [out, in]; LiBai orders the fused
    query-key-value outputs by head and then q, k, v, PyTorch by q, k, v and then head.

    Args:
        state_dict: {name: array} with PyTorch's names.
        num_heads: attention heads of the encoder.
        decoder_num_heads: attention heads of the decoder, if it is there.

    Returns:
        {name: array} with LiBai's names; values are moved, never changed.
    """
    result = {}
    for name, array in state_dict.items():
        if ".attn.qkv." in name:
            heads = decoder_num_heads if name.startswith("decoder_") else num_heads
            array = _regrouped(array, 3, heads)
        result[_rename(name, BLOCK_PARTS)] = np.ascontiguousarray(_transposed(name, array))
    return result


def libai_to_torch(state_dict, num_heads, decoder_num_heads=None):
    """The inverse of `torch_to_libai`, with the same arguments."""
    result = {}
    for name, array in state_dict.items():
        array = _transposed(name, array)
        if ".self_attention.query_key_value." in name:
            heads = decoder_num_heads if name.startswith("decoder_") else num_heads
            array = _regrouped(array, heads, 3)
        result[_rename(name, TORCH_PARTS)] = np.ascontiguousarray(array)
    return result


def linear_layout(state_dict, source):
    """`MAIN` or `OURS`: how the Linear weights of LiBai's {name: array} lie, by the shapes of those
    that are not square.

    Raises:
        UserError: some lie in one way, some in the other.
    """
    found = {}
    for name, array in state_dict.items():
        match = BLOCK_NAME.match(name)
        if match and array.ndim == 2 and match[2] == "self_attention.query_key_value":
            layout = {3: MAIN, 1 / 3: OURS}.get(array.shape[0] / max(array.shape[1], 1))
            found.setdefault(layout, name)
    if OURS in found and MAIN in found:
        what = f"{found[OURS]} lies as {OURS}, {found[MAIN]} as {MAIN}: they are of two LiBais"
        raise UserError(what, path=source)
    return MAIN if MAIN in found else OURS


def from_libai_main(state_dict, global_pool):
    """LiBai main's {name: array} in this project's layout: Linear weights [out, in] become [in, out];
    `norm` becomes `fc_norm` in a classifier that averages the patches."""
    pooled = global_pool and "head.weight" in state_dict
    names = {f"norm.{kind}": f"fc_norm.{kind}" for kind in ("weight", "bias")} if pooled else {}
    return {names.get(n, n): np.ascontiguousarray(_transposed(n, a)) for n, a in state_dict.items()}


def to_libai_main(state_dict):
    """The inverse of `from_libai_main`."""
    return {
        re.sub("^fc_norm", "norm", name): np.ascontiguousarray(_transposed(name, array))
        for name, array in state_dict.items()
    }
