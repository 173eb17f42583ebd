"""Show what a masked autoencoder makes of images: original, masked, reconstruction.

    python -m projects.MAE.visualize --weights W [--images PATH...] [--out FILE]

Writes a PNG with a column for each image: the original, what the encoder sees, what the decoder
predicts, and the prediction with the visible patches in their places. The weights must hold the
decoder. Without --images it takes the images that the run of the weights is validated on, with the
masks that they have there. The same seed gives the same picture.
"""
import functools
import os

from projects.MAE.command_line import (
    CommandParser,
    check_out,
    leave,
    positive,
    prepare_command,
    run_command,
    show,
)
from projects.MAE.data.image_list import ImageList
from projects.MAE.data.survey import reader_of
from projects.MAE.errors import UserError
from projects.MAE.runtime.single_process import start_one_process
from projects.MAE.utils.disk import reason

EXAMPLES = """examples:
  # the quickstart's model, on the images it is validated on
  python -m projects.MAE.visualize --weights output/quickstart/pretraining --out digits.png
  # half of each image masked, other masks, files of one's own
  python -m projects.MAE.visualize --weights output/quickstart/pretraining \\
      --mask-ratio 0.5 --seed 7 --images output/digits/val/3 --num-images 4 --out threes.png
"""
DEFAULT_SEED = 0


def parse_arguments(argv):
    parser = CommandParser("visualize", __doc__, EXAMPLES)
    parser.add_shared("--weights", "--images")
    parser.add_argument(
        "--num-images",
        metavar="N",
        type=positive,
        default=8,
        help="how many images, spread evenly over those there are (default: %(default)s)",
    )
    parser.add_argument(
        "--mask-ratio",
        metavar="R",
        type=float,
        help="share of patches to mask (default: that of training, else 0.75)",
    )
    parser.add_shared("--seed", default=None, help="of the masks (default: the run's, else 0)")
    parser.add_shared("--out", default="reconstructions.png", help="PNG (default: %(default)s)")
    parser.add_shared("--force", "--on-error", "--exif", "--bits", "--norm-pix-loss")
    parser.add_shared("--num-heads", "--decoder-num-heads", "--ema", "--device")
    args = parser.parse_args(argv)
    if args.mask_ratio is not None and not 0 < args.mask_ratio < 1:
        raise UserError(f"--mask-ratio {args.mask_ratio} must be between 0 and 1")
    if not args.out.lower().endswith(".png"):
        raise UserError(f"--out {args.out}: the picture is a PNG: let the name end with .png")
    return args


def run_images(cfg, source):
    """The `ImageList` of the images that a run is validated on; without val/ those it trains on.

    Args:
        cfg: the run's configuration, or None.
        source: the weights, for errors.
    """
    root = setting(cfg, "dataloader.test.0.dataset.root")
    if not root:
        raise UserError(f"{source} does not say which images it was trained with: give --images")
    root = os.path.expanduser(str(root))
    for folder in (os.path.join(root, "val"), os.path.join(root, "train"), root):
        if os.path.isdir(folder):
            return ImageList([folder])
    raise UserError(f"{root}, where the run of {source} had its images, is gone: give --images")


def setting(cfg, key):
    """A setting of a run; None without a configuration, or where this machine can't tell."""
    from omegaconf import OmegaConf
    from omegaconf.errors import OmegaConfBaseException

    try:
        return cfg and OmegaConf.select(cfg, key)
    except OmegaConfBaseException:  # a list, say, where a group of settings should be
        return None


def load(args):
    """The `SavedModel` that --weights and the options describe."""
    from projects.MAE.weights.saved_model import load_autoencoder

    told = dict(num_heads=args.num_heads, decoder_num_heads=args.decoder_num_heads)
    told.update(norm_pix_loss=args.norm_pix_loss, ema=args.ema)
    return load_autoencoder(args.weights, args.mask_ratio, **told)


def title_of(saved):
    """The weights' path, and how far training had come."""
    for unit in ("iteration", "epoch"):
        if unit in saved.facts:
            return f"{saved.source}, {unit} {saved.facts[unit]}"
    return saved.source


def run(argv):
    args = parse_arguments(argv)
    check_out(args.out, args.force)
    prepare_command()
    images = ImageList(args.images) if args.images else None
    start_one_process(args.device)
    # These need OneFlow set up.
    from projects.MAE.data.fixed_samples import listed_samples
    from projects.MAE.data.transforms import ToArray
    from projects.MAE.evaluation.reconstruction import reconstruct, reconstruction_grid
    from projects.MAE.evaluation.image_grid import save_png
    from projects.MAE.weights.source import run_config

    saved = load(args)
    preprocessing, model = saved.preprocessing, saved.model
    cfg = run_config(saved.source, saved.sizes.embed_dim)
    images = images or run_images(cfg, saved.source)
    seed = setting(cfg, "train.seed") if args.seed is None else args.seed
    seed = seed if isinstance(seed, int) and seed >= 0 else DEFAULT_SEED
    read = reader_of(saved, images, args)
    samples = listed_samples(images, read, args.num_images, model.num_patches, seed)
    grid = reconstruction_grid(
        model,
        reconstruct(model, samples.images, samples.noise),
        samples.labels,
        ToArray(preprocessing.mean, preprocessing.std).to_pixels,
        title=title_of(saved),
        seed=seed,
        known_from=saved.known_from["norm_pix_loss"],
    )
    try:
        save_png(grid, args.out)
    except OSError as error:
        why = reason(error, os.path.dirname(args.out) or ".")
        raise UserError(f"--out {args.out} can't be written: {why}: name another file") from None
    show(f"{args.out}: {len(samples.labels)} of {len(images)} images, {grid.width} x {grid.height}")
    for line in grid.info["Description"].split("\n"):
        show(line)


main = functools.partial(run_command, run)

if __name__ == "__main__":
    leave(main())
