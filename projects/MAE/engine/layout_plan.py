"""What `projects.MAE.plan` computes: the memory of every layout of N ranks, from a configuration."""
from omegaconf import OmegaConf

from projects.MAE.errors import UserError
from projects.MAE.parallel.layout import (
    balanced_stages,
    check_layout,
    check_zero,
    fitting_sizes,
    set_batch_sizes,
)
from projects.MAE.parallel.memory import GIB, Layout, LayoutMemory, Settings
from projects.MAE.runtime.lazy_call import kind_of_model
from projects.MAE.settings.check_each import check_each
from projects.MAE.settings.check_together import check_settings
from projects.MAE.settings.load import load_config

SIZES = ("base", "large", "huge")
KNOWN = dict(model=("MaskedAutoencoderViT", "VisionTransformer"), optim=("AdamW",))
PARTS = ("parameters", "gradients", "optimizer", "activations", "communication", "process")


def load(args, size=None):
    """The checked configuration of a run of args.ranks ranks, of a size of ViT if one is given.

    Raises:
        UserError: what training would refuse, too; eager mode, other models and optimizers.
    """
    overrides = args.overrides + ([f"vit.size={size}"] if size else [])
    cfg = load_config(args.config, overrides)
    check_each(cfg)
    if "finetune" in cfg:
        cfg.finetune.enable = False  # weights need not be there to plan
    if not cfg.graph.enabled:
        raise UserError(
            "graph.enabled=False: in eager mode memory is not planned ahead, so only graph mode "
            "can be told"
        )
    if kind_of_model(cfg) == "LinearProbe":
        raise UserError(
            "a linear probe trains in eager mode and its encoder keeps nothing for a backward pass, "
            "so there is no plan of it: it needs less than mae_finetune.py with the same micro-batch"
        )
    _check_kind(cfg)
    check_settings(cfg, eval_only=False)
    check_zero(cfg, device_of(cfg))
    check_layout(cfg, args.ranks)
    set_batch_sizes(cfg)
    return cfg


def _check_kind(cfg):
    """Raise a UserError for a recipe whose memory is not known here."""
    for key, known in KNOWN.items():
        target = cfg[key]["_target_"]
        name = (target if isinstance(target, str) else target.__name__).rsplit(".", 1)[-1]
        if name not in known:
            raise UserError(
                f"{key} is a {name} in this recipe, and the memory of {' or '.join(known)} alone can "
                "be told: see what a run takes with a small train.train_micro_batch_size"
            )


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
