"""Parallel sizes and batch sizes, checked before anything is built."""
import collections
import math
import os

from omegaconf import OmegaConf

from projects.MAE.errors import UserError
from projects.MAE.modeling.sizes import kept_patches
from projects.MAE.parallel.stage_balance import balance, block_costs

# How ranks share a model: parallel sizes, and a tuple of the stage of each transformer block.
Layout = collections.namedtuple("Layout", "data tensor pipeline stages")


def check_layout(cfg, world_size):
    """Check `train.dist` and fill in what is left out, without starting anything.

    Filled in: the data-parallel size, the number of layers, and with several pipeline stages the
    stage of every block (`custom_pipeline_stage_id`).

    Raises:
        UserError: the sizes don't fit the number of ranks, the heads or the layers.
    """
    node = cfg.train.dist
    tensor, pipeline = node.tensor_parallel_size, node.pipeline_parallel_size
    for key, size in [("tensor_parallel_size", tensor), ("pipeline_parallel_size", pipeline)]:
        if not isinstance(size, int) or size < 1:
            raise UserError(f"train.dist.{key}={size} must be a whole number of at least 1")
    problem = misfit(cfg.model, world_size, tensor, pipeline)
    if problem:
        near = ", ".join(
            f"tensor {t} x pipeline {p}"
            for t, p in nearest_layouts(cfg.model, world_size, tensor, pipeline)
        )
        raise UserError(f"{problem}; nearest that fit {world_size} ranks: {near}")
    data = world_size // (tensor * pipeline)
    if node.data_parallel_size not in (None, data):
        raise UserError(
            f"train.dist.data_parallel_size={node.data_parallel_size} times tensor {tensor} times "
            f"pipeline {pipeline} is not the {world_size} ranks: leave it out for {data}"
        )
    node.data_parallel_size = data
    node.pipeline_num_layers = layers(cfg.model)
    if node.custom_pipeline_stage_id is not None:
        check_stages(node.custom_pipeline_stage_id, node.pipeline_num_layers, pipeline)
    elif pipeline > 1:
        node.custom_pipeline_stage_id = balanced_stages(cfg.model, pipeline)


def layers(model):
    """Transformer blocks of a model's configuration, of encoder and decoder together."""
    return model.depth + (model.decoder_depth if "decoder_depth" in model else 0)


def tokens(model):
    """How many tokens an encoder block and a decoder block see, class token included."""
    patches = (model.img_size // model.patch_size) ** 2
    seen = kept_patches(patches, model.mask_ratio) if "mask_ratio" in model else patches
    return 1 + seen, 1 + patches


def misfit(model, world_size, tensor, pipeline):
    """Why a layout does not fit, naming key and value, or None if it does."""
    if world_size % (tensor * pipeline):
        return (
            f"train.dist.tensor_parallel_size={tensor} times pipeline_parallel_size={pipeline} "
            f"does not divide the {world_size} ranks"
        )
    if pipeline > layers(model):
        return (
            f"train.dist.pipeline_parallel_size={pipeline} is more than the {layers(model)} "
            "transformer blocks"
        )
    for prefix in ("", "decoder_"):
        heads = f"{prefix}num_heads"
        if heads not in model:
            continue
        if model[heads] % tensor:
            return (
                f"train.dist.tensor_parallel_size={tensor} does not divide "
                f"model.{heads}={model[heads]}"
            )
        hidden = int(model[f"{prefix}embed_dim"] * model.mlp_ratio)
        if hidden % tensor:
            return (
                f"train.dist.tensor_parallel_size={tensor} does not divide the {hidden} hidden "
                f"units of model.{prefix}embed_dim times model.mlp_ratio={model.mlp_ratio}"
            )
    return None


def balanced_stages(model, pipeline):
    """The stage of each block of a model's configuration, so that stages cost about the same."""
    return balance(block_costs(model, *tokens(model)), pipeline)


def fitting_sizes(model, world_size):
    """All pairs (tensor, pipeline) of parallel sizes that fit a number of ranks."""
    return [
        (tensor, pipeline)
        for tensor in range(1, world_size + 1)
        for pipeline in range(1, world_size // tensor + 1)
        if misfit(model, world_size, tensor, pipeline) is None
    ]


def configured_layout(cfg):
    """The `Layout` of a configuration, after `check_layout`."""
    node = cfg.train.dist
    stages = node.custom_pipeline_stage_id or [0] * node.pipeline_num_layers
    sizes = node.data_parallel_size, node.tensor_parallel_size, node.pipeline_parallel_size
    return Layout(*sizes, tuple(stages))


def fitting_layouts(cfg, world_size):
    """Every `Layout` of so many ranks that the model and the global batch of `set_batch_sizes` allow.

    The configured one comes with its own stages.
    """
    configured, found = configured_layout(cfg), []
    for tensor, pipeline in fitting_sizes(cfg.model, world_size):
        data = world_size // (tensor * pipeline)
        layout = Layout(data, tensor, pipeline, tuple(balanced_stages(cfg.model, pipeline)))
        if cfg.train.global_batch_size % data == 0:
            found.append(configured if layout[:3] == configured[:3] else layout)
    return found


def nearest_layouts(model, world_size, tensor, pipeline, count=3):
    """Up to `count` pairs (tensor, pipeline) that fit, the most similar first."""

    def distance(pair):
        return abs(math.log(pair[0] / tensor)) + abs(math.log(pair[1] / pipeline))

    return sorted(fitting_sizes(model, world_size), key=distance)[:count]


def check_stages(stages, num_layers, pipeline):
    """Raise a UserError unless every stage, in order, has blocks that follow one another."""
    is_list = OmegaConf.is_list(stages) or isinstance(stages, list)
    numbers = list(stages) if is_list and all(isinstance(stage, int) for stage in stages) else []
    if (
        len(numbers) == num_layers
        and numbers == sorted(numbers)
        and set(numbers) == set(range(pipeline))
    ):
        return
    if pipeline == 1:
        raise UserError(
            f"train.dist.custom_pipeline_stage_id={stages} needs several stages: set "
            "train.dist.pipeline_parallel_size, or leave it out"
        )
    raise UserError(
        f"train.dist.custom_pipeline_stage_id={stages} must name the stage of each of the "
        f"{num_layers} transformer blocks, rising from 0 to {pipeline - 1}: leave it out to "
        "have the blocks balanced by cost"
    )


def check_zero(cfg, device):
    """Raise a UserError for ZeRO where OneFlow would abort, or in a stage there is not.

    OneFlow 0.9 ends the process on a CPU (`register.cpp:75`).
    """
    zero = cfg.train.zero_optimization
    if not zero.enabled:
        return
    if device == "cpu":
        raise UserError(
            "train.zero_optimization.enabled=True needs GPUs, OneFlow has no ZeRO on a CPU: leave "
            "it out, or share the weights with train.dist.tensor_parallel_size"
        )
    if zero.stage not in (1, 2):
        raise UserError(f"train.zero_optimization.stage={zero.stage} must be 1 or 2")


def check_rdma(enabled, devices="/sys/class/infiniband"):
    """Raise a UserError for RDMA where Linux lists no InfiniBand device in `devices`."""
    if enabled and not (os.path.isdir(devices) and os.listdir(devices)):
        raise UserError(
            "train.rdma_enabled=True, but this machine has no InfiniBand device: leave it out, the "
            "machines talk over TCP then"
        )


def set_batch_sizes(cfg):
    """Fill in the one of micro batch, accumulation steps and global batch that is left out.

    The layout is checked before. The global batch is train_micro_batch_size times data-parallel
    ranks times num_accumulation_steps.

    Raises:
        UserError: they contradict each other, or too few are given.
    """
    train, ranks = cfg.train, cfg.train.dist.data_parallel_size
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
        unit = ranks * steps
        if total % unit:
            near = [n for n in (total // unit * unit, (total // unit + 1) * unit) if n]
            raise UserError(
                f"train.global_batch_size={total} cannot be shared by {ranks} data-parallel ranks "
                f"times train.num_accumulation_steps={steps}: choose "
                + " or ".join(map(str, near))
            )
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
