"""Tell how much memory a rank needs, for every layout of N ranks: nothing is built or started.

    python -m projects.MAE.plan CONFIG N [key=value ...]

CONFIG and key=value are those of training. The table has a line for each way to share out N ranks
as data x tensor x pipeline parallel ranks, for the configured model or, where a recipe chooses its
size by vit.size and none is given, for Base, Large and Huge. All lines have the same global batch.
"""
import argparse
import json
import sys

from omegaconf import OmegaConf

from projects.MAE.errors import UserError, report
from projects.MAE.utils.config import load_config
from projects.MAE.utils.layout import (
    balanced_stages,
    check_layout,
    check_zero,
    fitting_sizes,
    set_batch_sizes,
)
from projects.MAE.utils.memory import GIB, Layout, LayoutMemory, Settings
from projects.MAE.utils.settings import check_settings

EXAMPLES = """examples:
  # the pretraining recipe on 8 GPUs of 24 GiB: Base, Large and Huge, all layouts
  python -m projects.MAE.plan projects/MAE/configs/mae_pretraining.py 8 --memory 24
  # finetuning Huge on 16 GPUs, with activation checkpointing
  python -m projects.MAE.plan projects/MAE/configs/mae_finetune.py 16 vit.size=huge \\
      train.activation_checkpoint.enabled=True
  # CPU ranks instead of GPUs, for another program
  python -m projects.MAE.plan projects/MAE/configs/quickstart_pretraining.py 2 \\
      train.device=cpu --json
"""
LEGEND = """GiB of the rank that needs most; stage is its pipeline stage.
layout: data x tensor x pipeline parallel ranks, * as configured.
batch: micro-batch x accumulation steps. sums: what adding up over ranks needs.
"""
NOTES = {
    "cuda": """GPU figures are computed and were never measured: leave a tenth free. A process is
assumed to need 1 GiB besides.""",
    "cpu": """Resident memory in training steps, with the native kernels; workers that read images,
evaluation and checkpoints come on top.""",
}
SIZES = ("base", "large", "huge")
PARTS = ("parameters", "gradients", "optimizer", "activations", "communication", "process")
HEADS = ("parameters", "gradients", "optimizer", "activations", "sums", "process")  # of PARTS


class _Parser(argparse.ArgumentParser):
    def error(self, message):
        raise UserError(f"{message}; see --help")


def parse_arguments(argv):
    parser = _Parser(
        prog="python -m projects.MAE.plan",
        description="\n\n".join(__doc__.strip().split("\n\n")[::2]),
        epilog=EXAMPLES,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("config", metavar="CONFIG", help="a LazyConfig file, as for training")
    parser.add_argument("ranks", metavar="N", help="number of ranks: GPUs, or CPU processes")
    parser.add_argument(
        "overrides", metavar="key=value", nargs="*", help="settings, as for training"
    )
    parser.add_argument(
        "--memory",
        type=float,
        metavar="GIB",
        help="memory a rank has: say what fits, and the largest micro-batch that does",
    )
    parser.add_argument("--json", action="store_true", help="print bytes, for another program")
    args = parser.parse_intermixed_args(argv)
    if not args.ranks.isdecimal() or int(args.ranks) < 1:
        raise UserError(f"N={args.ranks} must be a number of ranks, at least 1")
    args.ranks = int(args.ranks)
    if args.memory is not None and not args.memory > 0:
        raise UserError(f"--memory {args.memory} must be a number of GiB above 0")
    return args


def load(args, size=None):
    """The checked configuration of a run of args.ranks ranks, of a size of ViT if one is given.

    Raises:
        UserError: what training would refuse, too; eager mode.
    """
    overrides = args.overrides + ([f"vit.size={size}"] if size else [])
    cfg = load_config(args.config, overrides)
    if "finetune" in cfg:
        cfg.finetune.enable = False  # weights need not be there to plan
    if not cfg.graph.enabled:
        raise UserError(
            "graph.enabled=False: in eager mode memory is not planned ahead, so only graph mode "
            "can be told"
        )
    check_settings(cfg, eval_only=False)
    check_zero(cfg, device_of(cfg))
    check_layout(cfg, args.ranks)
    set_batch_sizes(cfg)
    return cfg


def micro_batch_rule(args):
    """How a rank's samples of a step are divided, whatever the layout: as the configuration says.

    Returns:
        A function (samples, configured micro-batch, configured steps) -> micro-batch, or None where
        they can't be divided so. A micro-batch that is set is kept, or the largest below it taken
        that divides the samples; where it is left out, the accumulation steps are kept.
    """
    if load_config(args.config, args.overrides).train.train_micro_batch_size is None:
        return lambda samples, micro, steps: None if samples % steps else samples // steps
    return lambda samples, micro, steps: max(n for n in divisors(samples) if n <= micro)


def device_of(cfg):
    """"cpu" or "cuda"; a plan is for GPUs unless the configuration says cpu."""
    return "cpu" if cfg.train.device == "cpu" else "cuda"


def sizes_to_plan(args):
    """The sizes of ViT to plan for, or [None] where the configuration has one model only."""
    cfg = load_config(args.config, args.overrides)
    named = any(override.startswith("vit.size=") for override in args.overrides)
    by_size = "vit" in cfg and OmegaConf.is_interpolation(cfg.model, "embed_dim")
    return SIZES if by_size and not named else [None]


def fitting_layouts(cfg, ranks):
    """Every `Layout` of so many ranks that the model allows, the configured one as configured."""
    node, model = cfg.train.dist, cfg.model
    configured = (node.tensor_parallel_size, node.pipeline_parallel_size)
    found = []
    for tensor, pipeline in fitting_sizes(model, ranks):
        stages = None
        if (tensor, pipeline) == configured:
            stages = node.custom_pipeline_stage_id
        elif pipeline > 1:
            stages = balanced_stages(model, pipeline)
        data = ranks // (tensor * pipeline)
        found.append(Layout(data, tensor, pipeline, tuple(stages) if stages else None))
    return found


def settings_of(cfg):
    """The `Settings` of a configuration."""
    train, device = cfg.train, device_of(cfg)
    return Settings(
        device=device,
        checkpointing=train.activation_checkpoint.enabled,
        amp=train.amp.enabled and device == "cuda",
        zero=train.zero_optimization.stage if train.zero_optimization.enabled else 0,
    )


def divisors(number):
    return [n for n in range(1, number + 1) if number % n == 0]


def plan_layout(cfg, layout, rule, memory):
    """One line of the table as a dict, or None where the ranks can't share the global batch.

    Args:
        rule: a `micro_batch_rule`.
        memory: bytes a rank has, or None.
    """
    train = cfg.train
    if train.global_batch_size % layout.data:
        return None
    rows = train.global_batch_size // layout.data
    micro_batch = rule(rows, train.train_micro_batch_size, train.num_accumulation_steps)
    if micro_batch is None:
        return None
    estimate = LayoutMemory(cfg.model, layout, settings_of(cfg))
    stage, parts = estimate.worst_rank(micro_batch, rows // micro_batch)
    line = dict(
        data=layout.data,
        tensor=layout.tensor,
        pipeline=layout.pipeline,
        micro_batch=micro_batch,
        accumulation_steps=rows // micro_batch,
        stage=stage,
        **{part: round(getattr(parts, part)) for part in PARTS},
        total=round(parts.total),
    )
    if memory is not None:
        needs = {n: estimate.worst_rank(n, rows // n)[1].total for n in divisors(rows)}
        line["fits"] = parts.total <= memory
        line["largest_micro_batch"] = max((n for n in needs if needs[n] <= memory), default=None)
    return line


def plan(args):
    """The whole plan: {"device", "ranks", "memory", "models": [{"model", "layouts", ...}]}."""
    memory = None if args.memory is None else args.memory * GIB
    result, rule = dict(ranks=args.ranks, memory=memory, models=[]), micro_batch_rule(args)
    for size in sizes_to_plan(args):
        cfg = load(args, size)
        node, model = cfg.train.dist, cfg.model
        configured = (node.tensor_parallel_size, node.pipeline_parallel_size)
        lines = [plan_layout(cfg, x, rule, memory) for x in fitting_layouts(cfg, args.ranks)]
        lines = [line for line in lines if line]
        for line in lines:
            line["configured"] = (line["tensor"], line["pipeline"]) == configured
        result["device"] = device_of(cfg)
        result["models"].append(
            dict(
                model=describe(model),
                size=size or (cfg.vit.size if by_name(cfg) else None),
                global_batch_size=cfg.train.global_batch_size,
                settings=in_words(settings_of(cfg)),
                layouts=lines,
            )
        )
    return result


def by_name(cfg):
    """Whether the model has the sizes that vit.size names."""
    named = cfg.vit[cfg.vit.size] if "vit" in cfg else {}
    keys = ("patch_size", "embed_dim", "depth", "num_heads")
    return bool(named) and all(named[key] == cfg.model[key] for key in keys)


def describe(model):
    text = f"{model.depth} blocks of width {model.embed_dim}, patches of {model.patch_size}"
    if "decoder_depth" in model:
        text += f"; decoder {model.decoder_depth} blocks of width {model.decoder_embed_dim}"
    return f"{text}; images of {model.img_size}"


def in_words(settings):
    """What of the settings changes memory."""
    found = ["mixed precision" if settings.amp else "float32"]
    found += ["activation checkpointing"] if settings.checkpointing else []
    return ", ".join(found + ([f"ZeRO stage {settings.zero}"] if settings.zero else []))


def table(result):
    """The plan as lines of text; GiB are 2**30 bytes."""
    lines = []
    for model in result["models"]:
        name = f"ViT-{model['size'].capitalize()}: " if model["size"] else ""
        lines += [
            f"{name}{model['model']}",
            f"{result['ranks']} {result['device']} ranks, global batch "
            f"{model['global_batch_size']}, {model['settings']}",
            *table_of_layouts(model["layouts"], result["memory"] is not None),
            "",
        ]
    return lines + [LEGEND + NOTES[result["device"]]]


def table_of_layouts(layouts, with_memory):
    """The columns of one model, a line a layout."""
    rows = [["layout", "batch", "stage", *HEADS, "total"]]
    rows[0] += ["fits", "largest micro-batch"] if with_memory else []
    for line in layouts:
        mark = "*" if line["configured"] else " "
        row = [
            f"{line['data']} x {line['tensor']} x {line['pipeline']} {mark}",
            f"{line['micro_batch']} x {line['accumulation_steps']}",
            str(line["stage"]),
        ]
        row += [f"{line[part] / GIB:.2f}" for part in (*PARTS, "total")]
        if with_memory:
            row += ["yes" if line["fits"] else "no", str(line["largest_micro_batch"] or "none")]
        rows.append(row)
    widths = [max(map(len, column)) for column in zip(*rows)]
    return ["  ".join(c.rjust(w) for c, w in zip(row, widths)) for row in rows]


def main(argv):
    args = parse_arguments(argv)
    result = plan(args)
    if args.json:
        print(json.dumps(result, indent=1))
    else:
        print("\n".join(table(result)))


if __name__ == "__main__":
    try:
        main(sys.argv[1:])
    except UserError as error:
        report(error)
        sys.exit(1)
