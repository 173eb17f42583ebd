"""Parallel sizes and batch sizes, checked before anything is built."""
import math
import os
from dataclasses import dataclass

from omegaconf import OmegaConf

from projects.MAE.errors import UserError
from projects.MAE.modeling.sizes import kept_patches
from projects.MAE.parallel.stage_balance import balance, block_costs


@dataclass(frozen=True)
class Layout:
    """How many ranks share what: data x tensor x pipeline parallel ranks, and the blocks' stages.

    Attributes:
        data, tensor, pipeline: the parallel sizes; their product is the number of ranks.
        stages: the pipeline stage of each transformer block, encoder first.
    """

    data: int
    tensor: int
    pipeline: int
    stages: tuple


@dataclass(frozen=True)
class Batch:
    """The samples of an optimizer step.

    Attributes:
        micro: samples that a data-parallel rank computes at a time.
        steps: micro-batches whose gradients are added up (accumulation steps).
        total: the global batch, micro * steps * data-parallel ranks.
    """

    micro: int
    steps: int
    total: int


def layout_of(cfg, world_size):
    """The `Layout` that `train.dist` asks for, with what it leaves out filled in.

    That is the data-parallel size, and with several pipeline stages the stage of every block.

    Raises:
        UserError: the sizes don't fit the number of ranks, the heads or the layers.
    """
    node, blocks = cfg.train.dist, layers(cfg.model)
    tensor, pipeline = node.tensor_parallel_size, node.pipeline_parallel_size
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
    stages = node.custom_pipeline_stage_id
    if stages is not None:
        check_stages(stages, blocks, pipeline)
    elif pipeline > 1:
        stages = balanced_stages(cfg.model, pipeline)
    else:
        stages = [0] * blocks
    return Layout(data, tensor, pipeline, tuple(stages))


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


def fitting_layouts(cfg, world_size, global_batch_size):
    """Every `Layout` of so many ranks that the model and the global batch allow.

    The configured one comes with its own stages.
    """
    configured, found = layout_of(cfg, world_size), []
    for tensor, pipeline in fitting_sizes(cfg.model, world_size):
        data = world_size // (tensor * pipeline)
        layout = Layout(data, tensor, pipeline, tuple(balanced_stages(cfg.model, pipeline)))
        if global_batch_size % data == 0:
            is_configured = (tensor, pipeline) == (configured.tensor, configured.pipeline)
            found.append(configured if is_configured else layout)
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


def batch_of(train, ranks):
    """The `Batch` of a run; the one of the three batch settings that is null follows from the others.

    Args:
        train: the configuration's node.
        ranks: data-parallel ranks.

    Raises:
        UserError: they contradict each other, or too few are given.
    """
    micro, steps, total = (
        train.train_micro_batch_size,
        train.num_accumulation_steps,
        train.global_batch_size,
    )
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
    return Batch(micro, steps, total)
