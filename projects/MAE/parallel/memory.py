"""How much memory a rank needs for training steps: one formula of sizes, layout and batch.

`rank_memory` adds up, in bytes,

    parameters     4 each (float32), and with mixed precision 2 for a float16 copy
    gradients      4 each trained one: on a CPU a set a micro-batch and one for their sum, as graphs
                   are unrolled there; on a GPU a second set where micro-batches are accumulated
    optimizer      8 each trained one, the two moments of AdamW
    activations    a sample's tensors, and work in a block: on a CPU all of a step, as OneFlow 0.9
                   shares no memory there, on a GPU those that the backward pass reads again
    communication  what is summed over ranks, on a CPU CPU_SUM_COPIES times
    process        OneFlow itself and its records of the graph

ZeRO (Rajbhandari et al., arXiv 1910.02054) divides the optimizer's part by the data-parallel ranks,
in stage 2 the gradients' too. Evaluation, checkpoints and the start of a run are not counted.
Nobody has compared the figures for GPUs with one.
"""
import collections

from projects.MAE.parallel.layout import layers, tokens

MIB, GIB = 2**20, 2**30
# Fitted to benchmarks/memory_results.json: OneFlow, MKL and a batch, and OneFlow's records of a
# block and micro-batch: of the rank's own blocks, and of every rank's, which each rank describes.
CPU_PROCESS, OWN_RECORD, JOB_RECORD = 500 * MIB, 2.4 * MIB, 3.1 * MIB
# To sum x bytes over ranks on a CPU OneFlow reserves about 4 x, with 2 ranks and with 4 (measured).
CPU_SUM_COPIES = 4
# An assumption, never measured: CUDA context, OneFlow's kernels, cuBLAS, cuDNN and NCCL buffers.
GPU_PROCESS = 1 * GIB

# A transformer block or what is around blocks, in the stage of `block`: a rank's parameters; and
# numbers a sample of the tensors to count, of a block's input x, and of what a block has inside.
Part = collections.namedtuple("Part", "block trained fixed tensors rows inner", defaults=(0, 0))


def worst_rank(cfg, layout, micro_batch, steps=1):
    """The `rank_memory` of the stage whose ranks need most."""
    found = [rank_memory(cfg, layout, s, micro_batch, steps) for s in range(layout.pipeline)]
    return max(found, key=lambda memory: memory["total"])


def rank_memory(cfg, layout, stage, micro_batch, steps=1):
    """{part: bytes} of a rank of a pipeline stage, with their "total" and the "stage".

    cfg: of a model and its training. A data-parallel rank takes micro_batch samples, steps times.
    """
    on_cpu, zero = cfg.train.device == "cpu", cfg.train.zero_optimization
    amp = cfg.train.amp.enabled and not on_cpu
    parts = [part for part in _parts(cfg, layout) if layout.stages[part.block] == stage]
    every = Part(*map(sum, zip(*parts)))
    gradients = 4 * every.trained / (layout.data if zero.enabled and zero.stage == 2 else 1)
    shared = 4 * every.rows * (on_cpu and layout.tensor > 1)  # both branches, forward and backward
    summed = gradients * (layout.data > 1) + 4 * shared * micro_batch * steps
    numbers = _numbers(cfg, layout, stage, parts, steps)
    images = (stage == 0) * 4 * cfg.model.in_chans * cfg.model.img_size**2 * steps
    if on_cpu and steps > 1:  # every micro-batch reshapes all of them to take its own, in 3 steps
        images *= steps + 4
    own, job = layout.stages.count(stage), len(layout.stages) * layout.data * layout.tensor
    records = (OWN_RECORD * own + JOB_RECORD * job) * steps
    found = dict(
        parameters=(6 if amp else 4) * (every.trained + every.fixed),
        gradients=gradients * ((steps if on_cpu else 1) + (steps > 1)),
        optimizer=8 * every.trained / (layout.data if zero.enabled else 1),
        activations=micro_batch * ((2 if amp else 4) * numbers + images),
        communication=(CPU_SUM_COPIES if on_cpu else 1) * summed,
        process=CPU_PROCESS + records if on_cpu else GPU_PROCESS,
    )
    found = {part: round(size) for part, size in found.items()}
    return dict(found, total=sum(found.values()), stage=stage)


def _numbers(cfg, layout, stage, parts, steps):
    """Numbers a sample of the tensors of a step, and of the memory that one block works in."""
    kept, work = sum(part.tensors for part in parts), max(part.inner for part in parts)
    if cfg.train.device == "cpu":
        return kept * steps + work
    if cfg.train.activation_checkpoint.enabled:  # blocks keep x, and run again one after another
        kept, work = sum(p.rows or p.tensors for p in parts), work + max(p.tensors for p in parts)
    # So that stages work at the same time, OneFlow gives each tensor that the backward pass reads
    # again 2 * stages buffers, in every stage but the last (its PipelineBufferPass).
    waits = steps > 1 and stage < layout.pipeline - 1
    return kept * (2 * layout.pipeline if waits else 1) + work


def _parts(cfg, layout):
    """The `Part`s of a model: its blocks, and what is around them. A GPU keeps patches of that."""
    model, on_cpu = cfg.model, cfg.train.device == "cpu"
    (seen, every), width, last = tokens(model), model.embed_dim, layers(model) - 1
    pixels, patch = model.in_chans * model.img_size**2, model.in_chans * model.patch_size**2
    rows, embedding = seen * width, (patch + 2) * width
    block = _block(cfg, layout, seen, width, model.num_heads)
    blocks = [block._replace(block=i) for i in range(model.depth)]
    # Three steps to patches; these embedded, plus bias, class token and positions, and a gradient.
    first = 3 * pixels + 5 * rows
    if "decoder_depth" not in model:
        # An MLP whose mean is wanted is no single operator. It has besides: its input, the norm and
        # GELU, both means' gradients, and those of the norm, of GELU and of the input.
        pooled, classes = (5 + 3 * model.mlp_ratio) * rows, model.num_classes
        return blocks + [
            Part(0, embedding + every * width, 0, first if on_cpu else pixels),
            Part(last, (2 + classes) * width + classes, 0, pooled * on_cpu),
        ]
    narrow, masked = model.decoder_embed_dim, pixels * model.mask_ratio
    block = _block(cfg, layout, every, narrow, model.decoder_num_heads)
    blocks += [block._replace(block=i) for i in range(model.depth, last + 1)]
    # Visible and masked patches; seven steps to normalise those; positions of the visible ones.
    first += pixels + 7 * masked + rows
    # Embedded, with mask tokens, in order, plus positions: six tensors, and about five gradients.
    joined = 11 * every * narrow
    # The norm and two gradients; prediction, difference, its square, and three gradients of those.
    error = 3 * (every - seen) * narrow + 6 * masked
    return blocks + [
        Part(0, embedding, every * width, first if on_cpu else pixels),
        Part(model.depth - 1, 2 * width, 0, 2 * rows * on_cpu),  # the norm and its gradient
        Part(model.depth, (width + 2) * narrow, every * narrow, joined * on_cpu),
        Part(last, (narrow + 1) * patch + 2 * narrow, 0, error * on_cpu),
    ]


def _block(cfg, layout, tokens, width, heads):
    """The `Part` of a transformer block, as if it were the first."""
    hidden, tensor, rows = int(width * cfg.model.mlp_ratio), layout.tensor, tokens * width
    # Two norms and the biases of two layers are whole in every rank.
    trained = 6 * width + ((4 * width + 2 * hidden) * width + 3 * width + hidden) // tensor
    # Inside are queries, keys, values and what attention mixes of them; the MLP's hidden layer.
    inner = tokens * (4 * width + hidden) / tensor
    drops, again = cfg.model.get("drop_path_rate", 0) > 0, cfg.train.activation_checkpoint.enabled
    if cfg.train.device != "cpu":
        # `libai.layers` keep of each branch x, the normalised x and the expanded draws of
        # stochastic depth, and beside what is inside the softmax of the scores and the GELU.
        tensors = (4 + 2 * drops) * rows + inner + tokens * (heads * tokens + hidden) / tensor
        return Part(0, trained, 0, tensors, rows, inner)
    if tensor == 1:
        # Each branch is one operator: its result and its inside; back, the gradient of x.
        forward, backward = 2 * rows + inner, 2 * rows
    else:
        # Of each branch the normalised x, the product, its sums with the bias and with x, and with
        # stochastic depth the draws, expanded in two steps, and their product; back, the gradients
        # of the inside, of the normalised x in this rank and in all, of x, and of that product.
        forward, backward = (8 + 6 * drops) * rows + inner, (6 + 2 * drops) * rows + inner
    if again or layout.pipeline > 1:  # a graph copies the block's input then
        forward, backward = forward + rows, backward + rows
    return Part(0, trained, 0, forward * (1 + again) + backward, rows, inner)
