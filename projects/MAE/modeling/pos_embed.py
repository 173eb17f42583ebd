"""Fixed 2-D sine-cosine position embeddings."""
import numpy as np


def sincos_pos_embed_1d(dim, positions):
    """Sine-cosine embedding of scalar positions (Vaswani et al., arXiv 1706.03762, section 3.5).

    Args:
        dim: even number of channels; the first half are sines, the second half cosines.
        positions: float64 [M].

    Returns:
        float64 [M, dim].
    """
    omega = 1.0 / 10000 ** (np.arange(dim // 2, dtype=np.float64) / (dim / 2.0))
    angles = np.outer(positions, omega)
    return np.concatenate([np.sin(angles), np.cos(angles)], axis=1)


def sincos_pos_embed_2d(dim, grid_size, cls_token=True):
    """Position embedding of a square grid of patches, width first, as the authors' code has it.

    Args:
        dim: number of channels, a multiple of 4; the first half encodes the column.
        grid_size: patches along one side.
        cls_token: put a row of zeros before the patches, for the class token.

    Returns:
        float32 [cls_token + grid_size**2, dim], patches in row-major order.

    Raises:
        ValueError: dim is not a multiple of 4.
    """
    if dim % 4:
        raise ValueError(f"a 2-D sine-cosine embedding needs a multiple of 4 channels, not {dim}")
    rows, columns = np.divmod(np.arange(grid_size**2), grid_size)
    embed = np.concatenate(
        [sincos_pos_embed_1d(dim // 2, columns), sincos_pos_embed_1d(dim // 2, rows)], axis=1
    )
    if cls_token:
        embed = np.concatenate([np.zeros((1, dim)), embed])
    return embed.astype(np.float32)
