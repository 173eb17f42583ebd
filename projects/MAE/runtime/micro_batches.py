"""Micro-batches: the rows of a global batch, shared out without moving one to another rank."""
import oneflow as flow
from libai.utils import distributed as dist


def split_batch(batch, steps):
    """Split the rows that each rank holds into micro-batches; no row moves to another rank.

    Args:
        batch: {name: global tensor [N, ...]}, split by samples over R data-parallel ranks.
        steps: how many micro-batches; divides N / R.

    Returns:
        `steps` dicts of global tensors [N / steps, ...].
    """
    if steps == 1:
        return [batch]
    ranks = dist.get_data_parallel_size()

    def rows(tensor, step):
        n, *shape = tensor.shape
        micro = n // ranks // steps
        by_rank = tensor.reshape(ranks, steps, micro, *shape)
        return by_rank[:, step].reshape(ranks * micro, *shape)

    return [{name: rows(t, step) for name, t in batch.items()} for step in range(steps)]


def join_batch(parts):
    """The inverse of `split_batch` for a field: global tensors [M, ...] -> [M * parts, ...]."""
    if len(parts) == 1:
        return parts[0]
    ranks = dist.get_data_parallel_size()
    rows, *shape = parts[0].shape
    by_rank = [part.reshape(ranks, 1, rows // ranks, *shape) for part in parts]
    return flow.cat(by_rank, dim=1).reshape(len(parts) * rows, *shape)
