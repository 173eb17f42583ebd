"""Parallel sizes and batch sizes, checked before anything is built."""
from libai.utils import distributed as dist

from projects.MAE.errors import UserError


def set_layout(cfg, world_size):
    """Check `train.dist`, fill in the data-parallel size and set LiBai's distributed environment.

    Raises:
        UserError: the sizes don't fit the number of ranks, the heads or the layers.
    """
    node = cfg.train.dist
    tensor, pipeline = node.tensor_parallel_size, node.pipeline_parallel_size
    for key, size in [("tensor_parallel_size", tensor), ("pipeline_parallel_size", pipeline)]:
        if not isinstance(size, int) or size < 1:
            raise UserError(f"train.dist.{key}={size} must be a whole number of at least 1")
    if world_size % (tensor * pipeline):
        raise UserError(
            f"train.dist.tensor_parallel_size={tensor} times pipeline_parallel_size={pipeline} "
            f"does not divide the {world_size} ranks: start a multiple of {tensor * pipeline} ranks"
        )
    data = world_size // (tensor * pipeline)
    if node.data_parallel_size not in (None, data):
        raise UserError(
            f"train.dist.data_parallel_size={node.data_parallel_size} times tensor {tensor} times "
            f"pipeline {pipeline} is not the {world_size} ranks: leave it out for {data}"
        )
    node.data_parallel_size = data
    model = cfg.model
    for key in ("num_heads", "decoder_num_heads"):
        if key in model and model[key] % tensor:
            raise UserError(
                f"train.dist.tensor_parallel_size={tensor} does not divide "
                f"model.{key}={model[key]}"
            )
    layers = model.depth + (model.decoder_depth if "decoder_depth" in model else 0)
    if layers % pipeline:
        raise UserError(
            f"train.dist.pipeline_parallel_size={pipeline} does not divide the {layers} "
            "transformer blocks"
        )
    node.pipeline_num_layers = layers
    dist.setup_dist_util(node)


def set_batch_sizes(cfg):
    """Fill in the one of micro batch, accumulation steps and global batch that is left out.

    global batch = train_micro_batch_size * data-parallel ranks * num_accumulation_steps.

    Raises:
        UserError: they contradict each other, or too few are given.
    """
    train, ranks = cfg.train, dist.get_data_parallel_size()
    micro, steps, total = (
        train.train_micro_batch_size,
        train.num_accumulation_steps,
        train.global_batch_size,
    )
    for key in ("train_micro_batch_size", "num_accumulation_steps", "global_batch_size"):
        if train[key] is not None and (not isinstance(train[key], int) or train[key] < 1):
            raise UserError(f"train.{key}={train[key]} must be a whole number of at least 1")
    if micro is None and total is None:
        raise UserError("train.train_micro_batch_size or train.global_batch_size must be set")
    if total is None:
        steps = steps or 1
        total = micro * ranks * steps
    elif micro is None:
        steps = steps or 1
        micro = total // (ranks * steps)
    elif steps is None:
        steps = total // (micro * ranks)
    if total < 1 or micro * ranks * steps != total:
        raise UserError(
            f"train.global_batch_size={total} is not train.train_micro_batch_size={micro} times "
            f"{ranks} data-parallel ranks times train.num_accumulation_steps={steps}: change one "
            "or set it to null"
        )
    train.train_micro_batch_size, train.num_accumulation_steps = micro, steps
    train.global_batch_size = total
