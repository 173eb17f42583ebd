"""Parallel sizes and batch sizes, checked before anything is built."""
import math
import os
from dataclasses import dataclass

from projects.MAE.errors import UserError
from projects.MAE.modeling.sizes import kept_patches
from projects.MAE.parallel.stage_balance import balance, block_costs


@dataclass(frozen=True)
class Layout:
    """Data x tensor x pipeline parallel ranks, and the blocks' stages."""

    data: int
    tensor: int
    pipeline: int
    stages: tuple  # the pipeline stage of each transformer block, encoder first


@dataclass(frozen=True)
class Batch:
    """The samples of an optimizer step."""

    micro: int  # samples that a data-parallel rank computes at a time
    steps: int  # micro-batches whose gradients are added up (accumulation steps)
    total: int  # the global batch, micro * steps * data-parallel ranks


def layout_of(cfg, world_size):
    """The `Layout` that `train.dist` asks for, with what it leaves out filled in.

    That is the data-parallel size, and with several pipeline stages the stage of every block.
    """
    node, blocks = cfg.train.dist, layers(cfg.model)
    tensor, pipeline = node.tensor_parallel_size, node.pipeline_parallel_size
    problem = misfit(cfg.model, world_size, tensor, pipeline)
    if problem:
        fitting = nearest_layouts(cfg.model, world_size, tensor, pipeline)
        near = ", ".join(f"tensor {t} x pipeline {p}" for t, p in fitting)
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
    given = f"train.dist.tensor_parallel_size={tensor}"
    stages = f"pipeline_parallel_size={pipeline}"
    if world_size % (tensor * pipeline):
        return f"{given} times {stages} does not divide the {world_size} ranks"
    if pipeline > layers(model):
        return f"train.dist.{stages} is more than the {layers(model)} transformer blocks"
    for prefix in ("", "decoder_"):
        heads = f"{prefix}num_heads"
        if heads not in model:
            continue
        if model[heads] % tensor:
            return f"{given} does not divide model.{heads}={model[heads]}"
        hidden = int(model[f"{prefix}embed_dim"] * model.mlp_ratio)
        if hidden % tensor:
            return (
                f"{given} does not divide the {hidden} hidden units of model.{prefix}embed_dim "
                f"times model.mlp_ratio={model.mlp_ratio}"
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
    """Every `Layout` that model, ranks and batch allow; the configured one with its own stages."""
    configured, found = layout_of(cfg, world_size), []
    for tensor, pipeline in fitting_sizes(cfg.model, world_size):
        data = world_size // (tensor * pipeline)
        if (tensor, pipeline) == (configured.tensor, configured.pipeline):
            stages = configured.stages
        else:
            stages = tuple(balanced_stages(cfg.model, pipeline))
        if global_batch_size % data == 0:
            found.append(Layout(data, tensor, pipeline, stages))
    return found


def nearest_layouts(model, world_size, tensor, pipeline):
    """Up to three pairs (tensor, pipeline) that fit, the most similar first."""

    def distance(pair):
        return abs(math.log(pair[0] / tensor)) + abs(math.log(pair[1] / pipeline))

    return sorted(fitting_sizes(model, world_size), key=distance)[:3]


def check_stages(stages, num_layers, pipeline):
    """Raise a UserError unless every stage, in order, has blocks that follow one another."""
    rises = list(stages) == sorted(stages)
    if rises and len(stages) == num_layers and set(stages) == set(range(pipeline)):
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
    """Raise a UserError for ZeRO on a CPU, where OneFlow 0.9 aborts (`register.cpp:75`)."""
    if cfg.train.zero_optimization.enabled and device == "cpu":
        raise UserError(
            "train.zero_optimization.enabled=True needs GPUs, OneFlow has no ZeRO on a CPU: leave "
            "it out, or share the weights with train.dist.tensor_parallel_size"
        )


def check_rdma(enabled, devices="/sys/class/infiniband"):
    """Raise a UserError for RDMA where Linux lists no InfiniBand device in `devices`."""
    if enabled and not (os.path.isdir(devices) and os.listdir(devices)):
        raise UserError(
            "train.rdma_enabled=True, but this machine has no InfiniBand device: leave it out, the "
            "machines talk over TCP then"
        )


def batch_of(train, ranks):
    """The `Batch` of data-parallel ranks; a setting that is null follows from the others."""
    micro, total = train.train_micro_batch_size, train.global_batch_size
    steps = train.num_accumulation_steps
    if micro is None and total is None:
        raise UserError("train.train_micro_batch_size or train.global_batch_size must be set")
    if micro is None or total is None:
        steps = steps or 1
    if total is None:
        total = micro * ranks * steps
    elif micro is None:
        unit = ranks * steps
        micro, rest = divmod(total, unit)
        if rest:
            near = [str(n) for n in (micro * unit, (micro + 1) * unit) if n]
            raise UserError(
                f"train.global_batch_size={total} cannot be shared by {ranks} data-parallel ranks "
                f"times train.num_accumulation_steps={steps}: choose {' or '.join(near)}"
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
