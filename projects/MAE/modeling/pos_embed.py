"""Fixed 2-D sine-cosine position embeddings, and how to carry them to another image size."""
import math

import numpy as np


def sincos_pos_embed_1d(dim, positions):
    """Sine-cosine embedding of scalar positions (Vaswani et al., arXiv 1706.03762, section 3.5).

    positions [M] -> float64 [M, dim]; the first half of the channels are sines, the second cosines.
    """
    omega = 1.0 / 10000 ** (np.arange(dim // 2, dtype=np.float64) / (dim / 2.0))
    angles = np.outer(positions, omega)
    return np.concatenate([np.sin(angles), np.cos(angles)], axis=1)


def sincos_pos_embed_2d(dim, grid_size):
    """Position embedding of a square grid of patches, width first, as the authors' code has it.

    Args:
        dim: number of channels, a multiple of 4; the first half encodes the column.
        grid_size: patches along one side.

    Returns:
        float32 [1 + grid_size**2, dim]: zeros for the class token, then patches in row-major order.
    """
    if dim % 4:
        raise ValueError(f"a 2-D sine-cosine embedding needs a multiple of 4 channels, not {dim}")
    rows, columns = np.divmod(np.arange(grid_size**2), grid_size)
    halves = [sincos_pos_embed_1d(dim // 2, columns), sincos_pos_embed_1d(dim // 2, rows)]
    patches = np.concatenate(halves, axis=1)
    return np.concatenate([np.zeros((1, dim)), patches]).astype(np.float32)


def cubic_resize_matrix(size, new_size):
    """The linear map that resizes a row of `size` samples to `new_size` by cubic convolution.

    Keys' kernel with a = -0.75, half-pixel centres and a repeated border, which is what PyTorch's
    `interpolate(mode="bicubic", align_corners=False)` computes.

    Returns:
        float64 [new_size, size]; its rows sum to 1.
    """
    a = -0.75
    centres = (np.arange(new_size) + 0.5) * size / new_size - 0.5
    first = np.floor(centres).astype(int)
    matrix = np.zeros((new_size, size))
    for tap in range(-1, 3):
        distance = np.abs(centres - (first + tap))
        near = (a + 2) * distance**3 - (a + 3) * distance**2 + 1
        far = a * (distance**3 - 5 * distance**2 + 8 * distance - 4)
        weight = np.where(distance <= 1, near, far)
        columns = np.clip(first + tap, 0, size - 1)
        np.add.at(matrix, (np.arange(new_size), columns), weight)
    return matrix


def resize_pos_embed(pos_embed, grid_size):
    """Carry a position embedding to another number of patches; the class token keeps its own.

    Args:
        pos_embed: float [1, 1 + g**2, D], class token first, patches in row-major order.
        grid_size: patches along one side of the result.

    Returns:
        float32 [1, 1 + grid_size**2, D].
    """
    dim = pos_embed.shape[-1]
    old = math.isqrt(pos_embed.shape[1] - 1)
    grid = pos_embed[0, 1:].reshape(old, old, dim)
    resize = cubic_resize_matrix(old, grid_size)
    grid = np.einsum("ir,rcd,jc->ijd", resize, grid, resize, optimize=True)
    patches = grid.reshape(1, grid_size**2, dim)
    return np.concatenate([pos_embed[:, :1], patches], axis=1).astype(np.float32)
