"""How much memory a rank needs for training steps, computed from sizes and layout alone.

`LayoutMemory` is the whole computation; what it adds up:

    parameters      4 bytes each (float32), and with mixed precision 2 for a float16 copy
    gradients       4 bytes each trained parameter. On a CPU one set a micro-batch and one for their
                    sum, since a graph is unrolled there. On a GPU a second set where micro-batches
                    are accumulated.
    optimizer       8 bytes each trained parameter, the two moments of AdamW
    activations     the tensors of a step, from `model_operators`: on a CPU all of them, as OneFlow
                    0.9 shares no memory between the CPU tensors of a graph; on a GPU those alive at
                    the worst moment, and the buffers of pipeline stages
    communication   what sums over ranks need: on a CPU CPU_SUM_COPIES times what is summed, on a
                    GPU another set of gradients where data-parallel ranks sum them
    process         OneFlow itself and its records of the graph

ZeRO (Rajbhandari et al., arXiv 1910.02054) divides the optimizer's part by the data-parallel ranks,
in stage 2 the gradients' too.
"""
import typing

from omegaconf import OmegaConf

from projects.MAE.modeling.sizes import Sizes, shapes_of
from projects.MAE.parallel.layout import layers
from projects.MAE.parallel.model_operators import patch_numbers, record_step

MIB, GIB = 2**20, 2**30

# Measured with tiny models: a CPU process with OneFlow, MKL and a batch; what OneFlow records of an
# operator, of a trained parameter with its optimizer's step, and of a gradient that data-parallel
# ranks sum. A rank's own graph takes OWN_SHARE of the first two; the rest is a description of the
# graphs of all ranks, which every rank has.
CPU_PROCESS = 460 * MIB
OPERATOR_RECORD = 0.22 * MIB
PARAMETER_RECORD = 0.24 * MIB
SUM_RECORD = 0.06 * MIB
OWN_SHARE = 0.65
# To sum x bytes over ranks on a CPU OneFlow reserves about 4 x, with 2 ranks and with 4 (measured).
CPU_SUM_COPIES = 4
# An assumption, never measured: CUDA context, OneFlow's kernels, cuBLAS, cuDNN and NCCL buffers.
GPU_PROCESS = 1 * GIB


class Layout(typing.NamedTuple):
    """Parallel sizes, and the stage of each transformer block (None with one stage)."""

    data: int
    tensor: int
    pipeline: int
    stages: typing.Optional[tuple] = None

    def stage_of(self, block):
        return self.stages[block] if self.stages else 0


class Settings(typing.NamedTuple):
    """What else of a run memory depends on.

    device: "cpu" (with the native kernels) or "cuda". zero: 0, or the stage of ZeRO.
    native: on a CPU, whether the native kernels are used.
    """

    device: str
    checkpointing: bool = False
    amp: bool = False
    zero: int = 0
    native: bool = True


class Memory(typing.NamedTuple):
    """Bytes of a rank, by what they are for."""

    parameters: float
    gradients: float
    optimizer: float
    activations: float
    communication: float
    process: float

    @property
    def total(self):
        return sum(self)


class StepBytes(typing.NamedTuple):
    """What a `Step` comes to: bytes a sample, and how many operators there are."""

    total: float
    peak: float
    kept: float
    reduced: float
    operators: int


class LayoutMemory:
    """The memory of every rank of a layout, as a function of the batch.

    It is that of training steps: evaluation, checkpoints and the start of a run are not counted.
    Figures for the device "cuda" come from a model of OneFlow's planner, which nobody has compared
    with a GPU.

    Args:
        model: a model's configuration.
        layout: a `Layout`.
        settings: a `Settings`.

    Example::

        stage, memory = LayoutMemory(cfg.model, Layout(8, 1, 1), Settings("cuda")).worst_rank(64)
        print(memory.total / GIB, memory.activations / GIB)
    """

    def __init__(self, model, layout, settings):
        # Interpolations such as ${vit.size} are resolved once, not at every look.
        model = OmegaConf.create({k: v for k, v in model.items() if isinstance(v, (int, float))})
        self.model, self.layout, self.settings = model, layout, settings
        on_cpu = settings.device == "cpu"
        steps = [
            record_step(
                model,
                stage,
                layout,
                native=on_cpu and settings.native,
                item_size=2 if settings.amp else 4,
                recompute=settings.checkpointing,
            )
            for stage in range(layout.pipeline)
        ]
        self.steps = [
            StepBytes(s.total(), s.peak(), s.kept(), s.reduced, len(s.writes)) for s in steps
        ]
        self.counts = [parameter_counts(model, layout, s) for s in range(layout.pipeline)]
        self.images = 4 * model.in_chans * model.img_size**2

    def of_rank(self, stage, micro_batch, steps=1):
        """The `Memory` of a rank of a pipeline stage.

        Args:
            stage: 0 to layout.pipeline - 1.
            micro_batch: samples a data-parallel rank takes at once.
            steps: micro-batches accumulated in an optimizer step.
        """
        estimate = self._on_cpu if self.settings.device == "cpu" else self._on_gpu
        return estimate(stage, micro_batch, steps)

    def worst_rank(self, micro_batch, steps=1):
        """The stage whose ranks need most, and their `Memory`."""
        found = [self.of_rank(s, micro_batch, steps) for s in range(self.layout.pipeline)]
        stage = max(range(len(found)), key=lambda s: found[s].total)
        return stage, found[stage]

    def _on_cpu(self, stage, micro_batch, steps):
        layout, step = self.layout, self.steps[stage]
        held, trained, _ = self.counts[stage]
        activations = step.total * micro_batch * steps
        if stage == 0:
            # The weight of the patch projection is permuted, and its gradient back.
            activations += 4 * 4 * self.model.embed_dim * patch_numbers(self.model) * steps
            if steps > 1:
                # Every micro-batch reshapes all rows of a step to take its own, in three steps.
                activations += self.images * micro_batch * steps * (steps + 3)
        summed = 4 * trained if layout.data > 1 else 0
        return Memory(
            parameters=4 * held,
            gradients=4 * trained * (steps + (steps > 1)),  # and their sum
            optimizer=8 * trained,
            activations=activations,
            communication=CPU_SUM_COPIES * (summed + step.reduced * micro_batch * steps),
            process=CPU_PROCESS + self._records(stage, steps),
        )

    def _records(self, stage, steps):
        """Bytes of OneFlow's records of a graph: the rank's own, and those of all ranks."""
        each = [
            OPERATOR_RECORD * step.operators * steps + PARAMETER_RECORD * tensors
            for step, (_, _, tensors) in zip(self.steps, self.counts)
        ]
        sums = sum(tensors for _, _, tensors in self.counts) if self.layout.data > 1 else 0
        every = (1 - OWN_SHARE) * sum(each) + SUM_RECORD * sums
        return OWN_SHARE * each[stage] + every * self.layout.data * self.layout.tensor

    def _on_gpu(self, stage, micro_batch, steps):
        layout, settings, step = self.layout, self.settings, self.steps[stage]
        held, trained, _ = self.counts[stage]
        activations = step.peak * micro_batch
        if stage == 0:
            activations += self.images * micro_batch * steps
        if steps > 1 and stage < layout.pipeline - 1:
            # So that stages work at the same time, OneFlow gives each tensor that the backward pass
            # reads again 2 * stages buffers, in every stage but the last (its PipelineBufferPass).
            # Seen on CPU ranks that accumulate inside the graph, where the buffers are as many.
            activations += (2 * layout.pipeline - 1) * step.kept * micro_batch
        gradients = 4 * trained / (layout.data if settings.zero == 2 else 1)
        return Memory(
            parameters=held * (6 if settings.amp else 4),
            gradients=gradients * (2 if steps > 1 else 1),
            optimizer=8 * trained / (layout.data if settings.zero else 1),
            activations=activations,
            communication=gradients if layout.data > 1 else 0,
            process=GPU_PROCESS,
        )


def parameter_counts(model, layout, stage=0):
    """What a rank of a stage holds: numbers of all parameters, of the trained ones, and tensors.

    Returns:
        (held, trained, tensors): the first two count numbers, the last trained tensors.
    """
    held = trained = tensors = 0
    for name, shape in shapes_of(_sizes(model)).items():
        if layout.stage_of(_block_of(name, model)) != stage:
            continue
        count = 1
        for size in shape:
            count *= size
        if _is_shared_out(name):
            count //= layout.tensor
        held += count
        # The positions of the autoencoder are fixed.
        if not ("mask_ratio" in model and name.endswith("pos_embed")):
            trained += count
            tensors += 1
    return held, trained, tensors


def _sizes(model):
    decoder = "decoder_depth" in model
    return Sizes(
        parts="full" if decoder else "classifier",
        img_size=model.img_size,
        patch_size=model.patch_size,
        in_chans=model.in_chans,
        embed_dim=model.embed_dim,
        depth=model.depth,
        mlp_width=int(model.embed_dim * model.mlp_ratio),
        num_classes=None if decoder else model.num_classes,
        global_pool=None if decoder else model.get("global_pool", True),
        decoder_embed_dim=model.decoder_embed_dim if decoder else None,
        decoder_depth=model.decoder_depth if decoder else None,
        decoder_mlp_width=int(model.decoder_embed_dim * model.mlp_ratio) if decoder else None,
    )


def _block_of(name, model):
    """The transformer block in whose stage a parameter, by its name in the authors' files, is."""
    parts = name.split(".")
    if parts[0] == "blocks":
        return int(parts[1])
    if parts[0] == "decoder_blocks":
        return model.depth + int(parts[1])
    if parts[0] in ("norm", "fc_norm", "head"):
        return model.depth - 1
    if parts[0] in ("decoder_embed", "mask_token", "decoder_pos_embed"):
        return model.depth
    if parts[0] in ("decoder_norm", "decoder_pred"):
        return layers(model) - 1
    return 0


def _is_shared_out(name):
    """Whether the tensor-parallel ranks share out a parameter (`Linear` of modeling/layers.py)."""
    columns = (".attn.qkv.weight", ".attn.qkv.bias", ".mlp.fc1.weight", ".mlp.fc1.bias")
    rows = (".attn.proj.weight", ".mlp.fc2.weight")
    return name.endswith(columns + rows)
