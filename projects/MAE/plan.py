"""Tell how much memory a rank needs, for every layout of N ranks: nothing is built or started.

    python -m projects.MAE.plan CONFIG N [key=value ...]

CONFIG and key=value are those of training. The table has a line for each way to share out N ranks
as data x tensor x pipeline parallel ranks, for the configured model or, where a recipe chooses its
size by vit.size and none is given, for Base, Large and Huge. All lines have the same global batch.
"""
import functools
import json

from omegaconf import OmegaConf

from projects.MAE.command_line import CommandParser, leave, positive, run_command
from projects.MAE.errors import UserError
from projects.MAE.parallel.layout import batch_of, check_zero, fitting_layouts, layout_of
from projects.MAE.parallel.memory import GIB, worst_rank
from projects.MAE.runtime.single_process import import_oneflow

EXAMPLES = """examples:
  # 8 GPUs of 24 GiB: Base, Large and Huge, all layouts (for CPU ranks add train.device=cpu)
  python -m projects.MAE.plan projects/MAE/configs/mae_pretraining.py 8 --memory 24
"""
LEGEND = """GiB of the rank that needs most; stage is its pipeline stage. sums: what adding up over
ranks needs. layout: data x tensor x pipeline, * as configured. batch: micro-batch x accumulation.
"""
NOTES = dict(
    cuda="GPU figures are computed (1 GiB a process) and were never measured: leave a tenth free.",
    cpu="Resident memory in training, with the native kernels; workers, evaluation, saving on top.",
)
PARTS = ["parameters", "gradients", "optimizer", "activations", "communication", "process", "total"]
MODELS = ["MaskedAutoencoderViT", "VisionTransformer"]
KNOWN = {  # what can be planned, and what to say of the rest
    "graph.enabled": (["True"], "eager mode plans no memory ahead"),
    "model": (MODELS, "a probe needs less than mae_finetune.py with the same micro-batch"),
    "optim": (["AdamW"], "see what a run takes with a small micro-batch"),
}


def parse_arguments(argv):
    parser = CommandParser("plan", __doc__, EXAMPLES)
    parser.add_argument("config", metavar="CONFIG", help="a LazyConfig file, as for training")
    parser.add_argument("ranks", metavar="N", type=positive, help="ranks: GPUs, or CPU processes")
    parser.add_argument("overrides", metavar="key=value", nargs="*", help="settings of training")
    fits = "memory a rank has: say what fits, and the largest micro-batch that does"
    parser.add_argument("--memory", metavar="GIB", type=float, help=fits)
    parser.add_shared("--json", help="print JSON with bytes, for another program")
    args = parser.parse_intermixed_args(argv)
    if args.memory is not None and not args.memory > 0:
        raise UserError(f"--memory {args.memory} must be a number of GiB above 0")
    return args


def load(args, *overrides):
    """The checked configuration of a run of args.ranks ranks, batch sizes as they are given."""
    from projects.MAE.runtime.lazy_call import class_name  # these load OneFlow
    from projects.MAE.settings.check_together import check_settings
    from projects.MAE.settings.load import load_config

    cfg = load_config(args.config, [*args.overrides, *overrides])
    if "finetune" in cfg:
        cfg.finetune.enable = False  # weights need not be there to plan
    check_settings(cfg, eval_only=False)
    found = str(cfg.graph.enabled), class_name(cfg.model), class_name(cfg.optim)
    for name, (key, (known, hint)) in zip(found, KNOWN.items()):
        if name not in known:
            raise UserError(f"{key}={name} can't be planned, only {' and '.join(known)}: {hint}")
    check_zero(cfg, cfg.train.device)
    return cfg


def plan_layout(cfg, layout, batch, limit):
    """A line of the table as a dict, for the global batch of `batch`; limit: bytes of a rank, or None.

    The micro-batch is the configured one, or where none is that of the accumulation steps; the next
    below that divides is taken.
    """
    samples = batch.total // layout.data
    sizes = [n for n in range(1, samples + 1) if samples % n == 0]
    wanted = cfg.train.train_micro_batch_size or max(samples // batch.steps, 1)
    micro = max(n for n in sizes if n <= wanted)
    needs = {n: worst_rank(cfg, layout, n, samples // n) for n in (sizes if limit else [micro])}
    line = dict(data=layout.data, tensor=layout.tensor, pipeline=layout.pipeline)
    line.update(micro_batch=micro, accumulation_steps=samples // micro, **needs[micro])
    if limit:
        fitting = [n for n in sizes if needs[n]["total"] <= limit]
        line.update(fits=micro in fitting, largest_micro_batch=max(fitting, default=None))
    return line


def plan_model(cfg, size, ranks, limit):
    """The plan of one model: what it is, and a line for each layout."""
    model, train, zero = cfg.model, cfg.train, cfg.train.zero_optimization
    OmegaConf.resolve(cfg.model)  # once, not at every look
    configured = layout_of(cfg, ranks)
    batch = batch_of(train, configured.data)
    lines = [
        dict(plan_layout(cfg, layout, batch, limit), configured=layout == configured)
        for layout in fitting_layouts(cfg, ranks, batch.total)
    ]
    text = f"{model.depth} blocks of width {model.embed_dim}, patches of {model.patch_size}"
    if "decoder_depth" in model:
        text += f"; decoder {model.decoder_depth} blocks of width {model.decoder_embed_dim}"
    settings = ["mixed precision" if train.amp.enabled and train.device != "cpu" else "float32"]
    settings += ["activation checkpointing"] * train.activation_checkpoint.enabled
    settings += [f"ZeRO stage {zero.stage}"] * zero.enabled
    about = dict(model=f"{text}; images of {model.img_size}", size=size, layouts=lines)
    return dict(about, global_batch_size=batch.total, settings=", ".join(settings))


def plan(args):
    """The whole plan: {"device", "ranks", "memory", "models": [{"model", "layouts", ...}]}."""
    cfg, limit = load(args), args.memory and args.memory * GIB
    by_size = "vit" in cfg and OmegaConf.is_interpolation(cfg.model, "embed_dim")
    models = {cfg.vit.size if by_size else None: cfg}
    if by_size and not any(override.startswith("vit.size=") for override in args.overrides):
        models = {size: load(args, f"vit.size={size}") for size in ("base", "large", "huge")}
    found = [plan_model(model, size, args.ranks, limit) for size, model in models.items()]
    device = "cpu" if cfg.train.device == "cpu" else "cuda"
    return dict(device=device, ranks=args.ranks, memory=limit, models=found)


def table(result):
    """The plan as lines of text; GiB are 2**30 bytes."""
    lines = []
    for model in result["models"]:
        name = f"ViT-{model['size'].capitalize()}: " if model["size"] else ""
        run = "{ranks} {device} ranks, global batch ".format(**result)
        lines += [name + model["model"], run + "{global_batch_size}, {settings}".format(**model)]
        rows = [columns(line) for line in model["layouts"]]
        rows = [list(rows[0]), *(row.values() for row in rows)]
        widths = [max(map(len, column)) for column in zip(*rows)]
        lines += ["  ".join(map(str.rjust, row, widths)) for row in rows] + [""]
    return lines + [LEGEND + NOTES[result["device"]]]


def columns(line):
    """{heading: text} of a layout."""
    found = {"layout": "{data} x {tensor} x {pipeline} ".format(**line) + " *"[line["configured"]]}
    found["batch"] = "{micro_batch} x {accumulation_steps}".format(**line)
    found["stage"] = str(line["stage"])
    found.update({x.replace("communication", "sums"): f"{line[x] / GIB:.2f}" for x in PARTS})
    if "fits" in line:
        found["fits"] = "yes" if line["fits"] else "no"
        found["largest micro-batch"] = str(line["largest_micro_batch"] or "none")
    return found


def run(argv):
    args = parse_arguments(argv)
    import_oneflow()  # without what it says of this machine
    print(json.dumps(plan(args), indent=1) if args.json else "\n".join(table(plan(args))))


main = functools.partial(run_command, run, options={})  # it takes the settings themselves

if __name__ == "__main__":
    leave(main())
