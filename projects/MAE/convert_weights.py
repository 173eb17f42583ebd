"""Convert weights between LiBai checkpoints, the authors' files, timm and transformers.

    python -m projects.MAE.convert_weights SRC DST --to {mae,timm,transformers,libai,libai-main}

SRC is any of them: a LiBai checkpoint or the output folder of a run, a .pth or safetensors file, a
folder of transformers. What it is and holds is read from it. Values are moved, never changed.
libai is a checkpoint of this project, libai-main one of projects/MAE in LiBai's own main branch.
"""
import functools
import os

from projects.MAE.command_line import CommandParser, leave, run_command, show
from projects.MAE.errors import UserError
from projects.MAE.modeling.sizes import shapes_of
from projects.MAE.weights.folder_config import make_processor
from projects.MAE.weights.libai_names import to_libai_main, torch_to_libai
from projects.MAE.weights.source import preprocessing_of, read_source
from projects.MAE.weights.transformers_names import make_config, to_transformers
from projects.MAE.weights.write import (
    check_can_write_pth,
    check_target,
    write_file,
    write_libai,
    write_transformers,
)

EXAMPLES = """examples:
  # a pretraining run, as the authors' *_full.pth
  python -m projects.MAE.convert_weights output/mae_pretraining mae_full.pth --to mae
  # a finetuned classifier for timm: create_model("vit_base_patch16_224", global_pool="avg",
  # checkpoint_path="vit.safetensors")
  python -m projects.MAE.convert_weights output/mae_finetune vit.safetensors --to timm
  # the authors' weights for ViTMAEForPreTraining.from_pretrained("vit_mae")
  python -m projects.MAE.convert_weights mae_pretrain_vit_base_full.pth vit_mae \\
      --to transformers --norm-pix-loss yes
  # the authors' weights as a LiBai checkpoint
  python -m projects.MAE.convert_weights mae_pretrain_vit_base.pth encoder --to libai
  # a pretraining run as a checkpoint that LiBai's own projects/MAE finetunes from
  python -m projects.MAE.convert_weights output/mae_pretraining pretrained --to libai-main
"""
LAYOUTS = ("mae", "timm", "transformers", "libai", "libai-main")
FOLDERS = LAYOUTS[2:]


def parse_arguments(argv):
    parser = CommandParser("convert_weights", __doc__, EXAMPLES)
    parser.add_argument("source", metavar="SRC", help="weights in any of the layouts")
    parser.add_argument("target", metavar="DST", help="file (mae, timm) or folder to write")
    parser.add_argument("--to", required=True, choices=LAYOUTS)
    parser.add_argument(
        "--format",
        choices=["pth", "safetensors"],
        help="of the file; by default as DST ends, else pth for mae and safetensors for timm",
    )
    parser.add_shared("--force", help="replace DST")
    parser.add_shared("--num-heads", "--decoder-num-heads", "--norm-pix-loss", "--ema")
    return parser.parse_args(argv)


def convert(args):
    """Do what the command line says; returns the lines to print."""
    file_format = choose_format(args)
    check_target(args.target, args.force)
    if file_format == "pth":
        check_can_write_pth()
    heads = dict(num_heads=args.num_heads, decoder_num_heads=args.decoder_num_heads)
    needed = args.to in FOLDERS
    source = read_source(args.source, needed, args.ema, norm_pix_loss=args.norm_pix_loss, **heads)
    state, sizes, facts = source.state, source.sizes, dict(source.facts)
    if sizes.parts == "probe":
        raise UserError(
            f"{args.source}: a linear probe, whose head stands behind a batch normalisation that no "
            "other layout has: convert the weights it was trained on, its encoder is the same"
        )
    if args.to == "libai-main" and sizes.parts == "encoder" and sizes.global_pool:
        raise UserError(
            f"{args.source}: an encoder that averages the patches (fc_norm), which LiBai's "
            "projects/MAE has with a head alone: use --to libai"
        )
    if args.to == "timm" and sizes.parts == "full":  # timm has no decoder
        sizes = sizes._replace(
            parts="encoder", decoder_embed_dim=None, decoder_depth=None, decoder_mlp_width=None
        )
        facts.pop("decoder_num_heads", None)
    kept = {name: state[name] for name in shapes_of(sizes)}
    card = make_card(sizes, facts, args)
    if args.to in ("libai", "libai-main"):
        names = torch_to_libai(kept, facts["num_heads"], facts.get("decoder_num_heads"))
        write_libai(args.target, to_libai_main(names) if args.to == "libai-main" else names, card)
    elif args.to == "transformers":
        check_transformers(sizes, facts, args.source)
        names = to_transformers(kept, bare=sizes.parts == "encoder")
        preprocessing, origin = preprocessing_of(source)
        processor = make_processor(preprocessing)
        write_transformers(args.target, names, make_config(sizes, facts), processor, card)
    else:
        write_file(args.target, kept, file_format, card)
    left = [name for name in state if name not in kept]
    lines = [f"{args.target}: {len(kept)} tensors, {sizes.parts}, image size {sizes.img_size}"]
    if args.to == "libai-main":
        model = "" if sizes.global_pool is None else f", model.global_pool={sizes.global_pool}"
        heads = f"model.num_heads={facts['num_heads']}{model}"
        lines.append(f"there: {heads}; its blocks have a LayerNorm eps of 1e-5, here 1e-6")
    if args.to == "transformers":
        lines.append(f"preprocessor_config.json: {preprocessing}; known from {origin}")
    return lines + ([f"left out: {', '.join(left)}"] if left else [])


def choose_format(args):
    """"pth", "safetensors", or None for LiBai's own."""
    if args.to in ("libai", "libai-main") and args.format:
        raise UserError(f"--format {args.format} is not for --to {args.to}, which writes a checkpoint")
    if args.to == "transformers" and args.format == "pth":
        raise UserError("--format pth is not for --to transformers: it writes safetensors")
    if args.to in FOLDERS:
        return None
    ending = os.path.splitext(args.target)[1][1:]
    if ending in ("pth", "safetensors"):
        if args.format not in (None, ending):
            raise UserError(f"{args.target} does not end as --format {args.format} files do")
        return ending
    return args.format or {"mae": "pth", "timm": "safetensors"}[args.to]


def check_transformers(sizes, facts, source):
    """Raise a UserError for what transformers has no model for, or can't be told."""
    if sizes.global_pool:
        raise UserError(
            f"{source}: a model that averages the patches (fc_norm), and transformers' ViT takes the "
            "class token: use --to timm, whose global_pool='avg' fits"
        )
    if sizes.parts == "full" and "norm_pix_loss" not in facts:
        raise UserError(
            f"{source}: it does not say whether it was trained on normalised pixels, and the loss "
            "depends on it: give --norm-pix-loss yes or no"
        )


def make_card(sizes, facts, args):
    """The model card: kind, parts and sizes of the model, and where it comes from."""
    known = {key: value for key, value in sizes._asdict().items() if value is not None}
    known["mlp_ratio"] = known.pop("mlp_width") / sizes.embed_dim
    if known.pop("decoder_mlp_width", None):
        known["decoder_mlp_ratio"] = sizes.decoder_mlp_width / sizes.decoder_embed_dim
    kind = "VisionTransformer" if sizes.parts == "classifier" else "MaskedAutoencoderViT"
    return {"model": kind, **known, **facts, "layout": args.to, "source": args.source}


def run(argv):
    for line in convert(parse_arguments(argv)):
        show(line)


main = functools.partial(run_command, run)

if __name__ == "__main__":
    leave(main())
