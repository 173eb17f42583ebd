"""Start a model from weights that somebody trained."""
import logging
import math
import os
import re

from projects.MAE.checkpoint.manifest import check_whole
from projects.MAE.checkpoint.names import find_checkpoint, has_checkpoint
from projects.MAE.checkpoint.reader import Tensor, read_card, read_part
from projects.MAE.data.datasets import comparable
from projects.MAE.errors import UserError, about
from projects.MAE.modeling.initialization import assign, named_tensors
from projects.MAE.modeling.pos_embed import resize_pos_embed
from projects.MAE.modeling.task import task_of_module
from projects.MAE.weights.files import check_no_ema, check_weight_file, read_weight_file
from projects.MAE.weights.libai_names import torch_name, torch_shape, torch_to_libai
from projects.MAE.weights.sizes import check_finite, known_heads
from projects.MAE.weights.source import read_checkpoint

logger = logging.getLogger("libai." + __name__)

SIZED = ("patch_embed.proj.weight", "pos_embed")  # tensors whose shapes tell patch and image size


def weight_style_of(path):
    """What weights are, as finetune.weight_style calls it: "oneflow", a folder that LiBai wrote, or
    "pytorch", all else."""
    is_libai = os.path.isdir(path) and has_checkpoint(path)
    return "oneflow" if is_libai else "pytorch"


def check_source(path, weight_style=None):
    """Raise a UserError where `load_pretrained` can't find what to read, or it is of another style."""
    if not path:
        way_out = "name a checkpoint of mae_pretraining.py, or set finetune.enable=False to start"
        raise UserError("finetune.path is not set", way_out=f"{way_out} from scratch")
    with about("finetune.path", path):
        if not os.path.exists(path):
            raise UserError("no such file or folder", path=path)
        found = weight_style_of(path)
        if weight_style not in (None, found):
            what = {"oneflow": "a LiBai checkpoint", "pytorch": "no LiBai checkpoint"}[found]
            what = f"{what}, but finetune.weight_style={weight_style}"
            way_out = f"set finetune.weight_style={found}, or leave it out"
            raise UserError(what, path=path, way_out=way_out)
        (find_checkpoint if found == "oneflow" else check_weight_file)(path)


def told_sizes(path, ema=False):
    """Image and patch size of a model that somebody trained, in pixels, and the channels of its
    images, as far as its weights tell.

    Args:
        path, ema: as of `load_pretrained`.

    Returns:
        {"img_size", "patch_size", "in_chans": int}, or a part of it; and who told it, in words.

    Raises:
        UserError: the weights can't be read.
    """
    if weight_style_of(path) == "oneflow":
        checkpoint = find_checkpoint(path)
        card = read_card(checkpoint)
        told = {k: card[k] for k in ("img_size", "patch_size", "in_chans") if k in card}
        if told:
            return told, "its model card"
        parts = read_part(os.path.join(checkpoint, "model"))
        parts = parts if isinstance(parts, dict) else {}
        shapes = {n: t.check(n)[1] for n, t in parts.items() if n in SIZED and isinstance(t, Tensor)}
    else:
        state, _ = read_weight_file(path, ema)
        shapes = {name: state[name].shape for name in SIZED if name in state}
    patch, positions = (shapes.get(name, ()) for name in SIZED)
    if len(patch) != 4 or len(positions) != 3:
        return {}, ""
    side = math.isqrt(max(positions[1] - 1, 0))
    sizes = dict(img_size=side * patch[-1], patch_size=patch[-1], in_chans=patch[1])
    return sizes, "the shapes of its tensors"


def check_channels(found, needed, path):
    """Raise a UserError where weights take images of another number of channels than a model."""
    if found != needed:
        what = f"its images have {found} channels, model.in_chans={needed}"
        way_out = f"take other weights, or set model.in_chans={found} with a data set that has them"
        raise UserError(what, path=path, way_out=way_out)


def load_pretrained(model, path, weight_style=None, classes=(), ema=False):
    """Fill a model with weights of the same size; every rank calls this.

    A classifier takes an encoder, or another classifier with its head where it has the same
    classes, pools in the same way and normalises the features as that one did. A masked autoencoder
    takes an encoder with its decoder. Position embeddings of another image size are interpolated.

    Args:
        model: VisionTransformer, LinearProbe or MaskedAutoencoderViT.
        path: a checkpoint as `find_checkpoint` takes it ("oneflow"), or a file or folder as
            `read_weight_file` does ("pytorch").
        weight_style: "oneflow" or "pytorch", which it has to be; None for what it is.
        classes: names of the classes that the model is to tell apart, in the order of its head, where
            they are known. A head that was trained on the same in another order is put in this one;
            on others, it is new.
        ema: take the averaged weights that a file has beside the raw ones.

    Returns:
        "loaded", "new": lists of the model's tensors; new ones keep their initial values.
        "left": the tensors in the weights that the model has no place for.
        "reshaped": {name: (shape in the weights, shape in the model)}, a part of "loaded".
        "facts": what else the weights say: heads, classes, preprocessing.
        "outputs": of the head in the weights, 0 without one.

    Raises:
        UserError: no such weights, or those of another kind or size of model, or damaged ones.
    """
    check_source(path, weight_style)
    with about("finetune.path", path):
        return _load(model, path, weight_style_of(path), list(classes), ema)


def _load(model, source, weight_style, classes, ema):
    if weight_style == "oneflow":
        check_no_ema(source, ema)
        weights, facts = read_libai(source, model)
    else:
        weights, facts = read_weight_file(source, ema)
        _say_assumed(model, weights, facts, source)
    _check_heads(model, facts, source)

    task = task_of_module(model)
    places = {name: (name, tuple(p.shape)) for name, p in named_tensors(model).items()}
    if weight_style == "pytorch":
        places = {n: (torch_name(n), torch_shape(n, shape)) for n, (_, shape) in places.items()}
    new = _find_new(model, places, weights, task, source)
    head = [name for name in places if name.startswith("head.") and name not in new]
    theirs, classes = map(comparable, (facts.get("classes") or classes, classes))
    if head and classes and sorted(theirs) != sorted(classes):
        logger.warning(f"{source} was trained on classes of other names: the head is new")
        new += head
    elif head and classes and theirs != classes:
        logger.info(f"{source} has these classes in another order: its head is put in this one")
    chosen, reshaped = {}, {}
    for name, (key, shape) in places.items():
        if name in new:
            continue
        array = weights[key]
        check_finite(array, key, source)
        if array.shape != shape:
            array = _resized(array, key, shape, source)
            reshaped[name] = (weights[key].shape, shape)
        chosen[key] = array
    left = sorted(set(weights) - set(chosen))
    _check_left(left, task, source)

    if weight_style == "pytorch":
        chosen = torch_to_libai(chosen, model.num_heads, getattr(model, "decoder_num_heads", None))
    for name, tensor in named_tensors(model).items():
        if name in chosen:
            in_order = name not in head or not classes or theirs == classes
            array = chosen[name]
            assign(tensor, array if in_order else _in_order_of(array, theirs, classes))
    report = {"loaded": list(chosen), "new": new, "left": left, "reshaped": reshaped, "facts": facts}
    return {**report, "outputs": len(weights.get("head.bias", ()))}


def _in_order_of(head, theirs, classes):
    """A head's weight [D, C] or bias [C], its outputs in the order of other names of classes."""
    places = [theirs.index(name) for name in classes]
    return head[..., places + list(range(len(places), head.shape[-1]))]


def read_libai(path, model):
    """{LiBai's name: float32 array} of a whole checkpoint for a model, and its card: where it has
    none (LiBai's own), what its run's config.yaml says. What neither says is the model's."""
    checkpoint = find_checkpoint(path)
    check_whole(checkpoint, "model")
    weights, told = read_checkpoint(checkpoint, getattr(model, "global_pool", None))
    facts = told["its model card"] or told["its run's config.yaml"]
    _say_assumed(model, weights, facts, checkpoint)
    return weights, facts


def _say_assumed(model, weights, facts, source):
    """The model's heads are taken where weights don't tell; the commands take those of record."""
    of_record = known_heads(weights)
    for key in ("num_heads", "decoder_num_heads"):
        ours = getattr(model, key, None)
        if not ours or facts.get(key):
            continue
        assumed = f"{source} does not say its {key}: model.{key}={ours} is assumed"
        if of_record.get(key, ours) == ours:
            logger.info(assumed)
        else:
            usual = f"a ViT of its width and depth has {of_record[key]}"
            logger.warning(f"{assumed}, but {usual}: set model.{key}={of_record[key]} if this one does")


def _check_heads(model, facts, source):
    """Tensors have the same shape for any number of heads: only what is written down can tell."""
    for key in ("num_heads", "decoder_num_heads"):
        found, needed = facts.get(key), getattr(model, key, None)
        if found and needed and found != needed:
            what = f"its model has {key}={found}, this one model.{key}={needed}"
            raise UserError(what, path=source, way_out=f"set model.{key}={found}")


def _find_new(model, places, weights, task, source):
    """The model's tensors that the weights don't give: only those that its task allows may be."""
    if not task.may_be_new and not any(n.startswith(("decoder_", "mask_token")) for n in weights):
        raise UserError(
            "an encoder alone, the decoder is missing: pretraining goes on from weights "
            "that hold both, the authors' *_full.pth or a checkpoint of mae_pretraining.py",
            path=source,
        )
    new = [name for name, (key, _) in places.items() if key not in weights]
    for name in new:
        if not name.startswith(task.may_be_new):
            _check_depth(model, places[name][0], weights, source)
            whole = "an encoder" if task.may_be_new else "a masked autoencoder"
            what = f"no tensor {places[name][0]}; these are not the whole weights of {whole}"
            raise UserError(what, path=source)
    # A head was trained behind some norms: without them, behind others or with other classes, it
    # means nothing.
    head = [name for name in places if name.startswith("head.")]
    fits = all(n in new or weights[places[n][0]].shape == places[n][1] for n in head)
    probed = any(n.startswith("feature_norm.") for n in set(weights) - set(places))
    if new or probed or not fits:
        new += [name for name in head if name not in new]
    return new


def _check_depth(model, missing, weights, source):
    """A UserError of its own where blocks are missing at the encoder's end."""
    numbers = {int(n.split(".")[1]) for n in weights if re.match(r"blocks\.\d+\.", n)}
    depth = len(numbers)
    if numbers == set(range(depth)) and missing.startswith(f"blocks.{depth}."):
        what = f"its encoder has {depth} blocks, this one model.depth={len(model.blocks)}"
        raise UserError(what, path=source, way_out=f"set model.depth={depth}, or the vit.size that it has")


def _resized(array, key, shape, source):
    """A position embedding of another image size, interpolated; other shapes are an error."""
    if key == SIZED[0] and array.ndim == 4:
        check_channels(array.shape[1], shape[1], source)
    tokens = [array.shape[1], shape[1]] if array.ndim == 3 and len(shape) == 3 else []
    sides = [math.isqrt(count - 1) for count in tokens]
    if (
        key not in ("pos_embed", "decoder_pos_embed")
        or array.shape[-1] != shape[-1]
        or [side**2 + 1 for side in sides] != tokens
    ):
        way_out = "choose the model's size with vit.size, model.img_size"
        what = f"{key} has shape {array.shape}, this model needs {shape}; {way_out}"
        raise UserError(what, path=source)
    return resize_pos_embed(array, sides[1])


def _check_left(left, task, source):
    """Encoder blocks that find no place mean a deeper model, not an unused part."""
    surplus = [name for name in left if not name.startswith(task.may_be_left)]
    if surplus:
        way_out = "choose the model's size with vit.size or model.depth"
        raise UserError(f"this model has no tensor {surplus[0]}; {way_out}", path=source)


def log_report(report, path):
    """One line a part of what `load_pretrained` did."""
    logger.info(f"Loaded {len(report['loaded'])} tensors from {path}")
    for name, (found, needed) in report["reshaped"].items():
        logger.info(f"Interpolated for another image size: {name}, {found} to {needed}")
    logger.info(f"New, with initial values: {', '.join(report['new']) or 'none'}")
    decoder = [n for n in report["left"] if n.startswith(("decoder_", "mask_token"))]
    others = [n for n in report["left"] if n not in decoder]
    logger.info(
        f"Left in the checkpoint: {len(decoder)} tensors of the decoder; "
        f"others: {', '.join(others) or 'none'}"
    )
