"""Convert weights between LiBai checkpoints, the authors' files, timm and transformers.

    python -m projects.MAE.convert_weights SRC DST --to {mae,timm,transformers,libai}

SRC is any of them: a LiBai checkpoint or the output folder of a run, a .pth or safetensors file, a
folder of transformers. What it is and holds is read from it. Values are moved, never changed.
"""
import argparse
import os
import sys

from projects.MAE.errors import UserError, report
from projects.MAE.utils.libai_folder import find_checkpoint, is_checkpoint, read_card, read_weights
from projects.MAE.utils.transformers_layout import make_config, to_transformers
from projects.MAE.utils.vit_sizes import known_heads, shapes_of, sizes_of
from projects.MAE.utils.weight_convert import libai_to_torch, torch_to_libai
from projects.MAE.utils.weight_files import read_weight_file
from projects.MAE.utils.weight_writer import (
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
"""
HEADS = ("num_heads", "decoder_num_heads")
# What a card says that tensors don't.
FACTS = (*HEADS, "norm_pix_loss", "mask_ratio", "classes", "epoch", "iteration")


def parse_arguments(argv):
    parser = argparse.ArgumentParser(
        prog="python -m projects.MAE.convert_weights",
        description=__doc__.split("\n\n")[0],
        epilog=EXAMPLES,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("source", metavar="SRC", help="weights in any of the layouts")
    parser.add_argument("target", metavar="DST", help="file (mae, timm) or folder to write")
    parser.add_argument("--to", required=True, choices=["mae", "timm", "transformers", "libai"])
    parser.add_argument(
        "--format",
        choices=["pth", "safetensors"],
        help="of the file; by default as DST ends, else pth for mae and safetensors for timm",
    )
    parser.add_argument("--force", action="store_true", help="replace DST")
    parser.add_argument(
        "--num-heads", type=int, help="attention heads, where neither SRC nor its size tells"
    )
    parser.add_argument("--decoder-num-heads", type=int, help="the same of the decoder")
    parser.add_argument(
        "--norm-pix-loss",
        choices=["yes", "no"],
        help="whether SRC was trained on normalised pixels, where it does not say so",
    )
    return parser.parse_args(argv)


def convert(args):
    """Do what the command line says; returns the lines to print.

    Raises:
        UserError: SRC can't be read or is no whole model, DST exists, or something that DST needs
            is not known.
    """
    file_format = choose_format(args)
    check_target(args.target, args.force)
    if file_format == "pth":
        check_can_write_pth()
    state, facts = read_source(args)
    sizes = sizes_of(state, args.source)
    for key, value in sizes._asdict().items():
        if value is not None and facts.get(key, value) != value:
            raise UserError(
                f"{args.source}: its model card says {key}={facts[key]}, its tensors {value}"
            )
    facts = {key: facts[key] for key in FACTS if key in facts}
    if args.norm_pix_loss:
        add_fact(facts, "norm_pix_loss", args.norm_pix_loss == "yes", args.source)
    needed = args.to in ("transformers", "libai")
    facts.update(find_heads(state, facts, args, needed))

    if args.to == "timm" and sizes.parts == "full":  # timm has no decoder
        sizes = sizes._replace(
            parts="encoder", decoder_embed_dim=None, decoder_depth=None, decoder_mlp_width=None
        )
        facts.pop("decoder_num_heads", None)
    kept = {name: state[name] for name in shapes_of(sizes)}
    card = make_card(sizes, facts, args)
    if args.to == "libai":
        heads = facts["num_heads"], facts.get("decoder_num_heads")
        write_libai(args.target, torch_to_libai(kept, *heads), card)
    elif args.to == "transformers":
        check_transformers(sizes, facts, args.source)
        names = to_transformers(kept, bare=sizes.parts == "encoder")
        write_transformers(args.target, names, make_config(sizes, facts), card)
    else:
        write_file(args.target, kept, file_format, card)
    left = [name for name in state if name not in kept]
    lines = [f"{args.target}: {len(kept)} tensors, {sizes.parts}, image size {sizes.img_size}"]
    return lines + ([f"left out: {', '.join(left)}"] if left else [])


def choose_format(args):
    """"pth", "safetensors", or None for LiBai's own."""
    if args.to == "libai" and args.format:
        raise UserError(f"--format {args.format} is not for --to libai, which writes a checkpoint")
    if args.to == "transformers" and args.format == "pth":
        raise UserError("--format pth is not for --to transformers: it writes safetensors")
    if args.to in ("libai", "transformers"):
        return None
    ending = os.path.splitext(args.target)[1][1:]
    if ending in ("pth", "safetensors"):
        if args.format not in (None, ending):
            raise UserError(f"{args.target} does not end as --format {args.format} files do")
        return ending
    return args.format or {"mae": "pth", "timm": "safetensors"}[args.to]


def read_source(args):
    """{name: float32 array} in the authors' names, and what the source says beside its tensors."""
    if not (os.path.isdir(args.source) and is_checkpoint(args.source)):
        return read_weight_file(args.source)
    checkpoint = find_checkpoint(args.source)
    weights, card = read_weights(checkpoint), read_card(checkpoint)
    if "cls_token" not in weights:
        raise UserError(f"{checkpoint}: not the weights of a ViT, it has no cls_token")
    heads = find_heads(weights, card, args, needed=True)
    return libai_to_torch(weights, **heads), card


def add_fact(facts, key, value, source):
    """Put an option's value among the facts; raises a UserError where the source denies it."""
    if facts.get(key, value) != value:
        option = "--" + key.replace("_", "-")
        raise UserError(f"{option} says {value}, but {source} says {facts[key]}")
    facts[key] = value


def find_heads(state, facts, args, needed):
    """{"num_heads", "decoder_num_heads"} from the options, the source or the model's size.

    Tensors have the same shapes for any number of heads, so none of them can tell.

    Raises:
        UserError: they contradict each other, or a number is needed and not known.
    """
    found = {key: facts[key] for key in HEADS if facts.get(key)}
    for key in HEADS:
        if getattr(args, key):
            add_fact(found, key, getattr(args, key), args.source)
    found = {**known_heads(state), **found}
    widths = {"num_heads": "cls_token", "decoder_num_heads": "mask_token"}
    for key, token in widths.items():
        if token not in state:
            found.pop(key, None)
            continue
        width = state[token].shape[-1]
        if needed and key not in found:
            raise UserError(
                f"{args.source}: its number of attention heads is not known (width {width}): give "
                f"--{key.replace('_', '-')}"
            )
        if key in found and (found[key] < 1 or width % found[key]):
            raise UserError(f"{args.source}: {key}={found[key]} does not divide its width {width}")
    return found


def check_transformers(sizes, facts, source):
    """Raise a UserError for what transformers has no model for, or can't be told."""
    if sizes.global_pool:
        raise UserError(
            f"{source}: a classifier that averages the patches (fc_norm), and transformers' "
            "ViTForImageClassification takes the class token: use --to timm, whose "
            "global_pool='avg' fits"
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


def main(argv=None):
    """Exit status 0, or 1 after one line that says what is wrong."""
    try:
        lines = convert(parse_arguments(argv))
    except UserError as error:
        report(error)
        return 1
    print("\n".join(lines))
    return 0


if __name__ == "__main__":
    sys.exit(main())
