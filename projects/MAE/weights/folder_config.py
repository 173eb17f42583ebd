"""What lies beside weights in a folder of timm or transformers, and says how to use them."""
from projects.MAE.checkpoint.reader import (
    check_card_types,
    check_preprocessing,
    is_finite,
    is_side,
)
from projects.MAE.data.preprocessing import told_preprocessing
from projects.MAE.data.transforms import FILTERS, IMAGENET_MEAN, IMAGENET_STD
from projects.MAE.errors import UserError

# ViTImageProcessor's, which ViT and ViTMAE have where the file does not say it.
VIT_PROCESSOR = {"size": 224, "resample": 2, "image_mean": [0.5] * 3, "image_std": [0.5] * 3}
VIT_PROCESSOR["do_center_crop"] = False
FLAGS = ("do_resize", "do_center_crop", "do_rescale", "do_normalize", "do_pad")
# Whose `size` is a square where it is one number; to the others it is the shorter side.
SQUARE, SHORTER_SIDE = ("ViT", "DeiT", "Beit"), ("Bit", "CLIP", "ConvNext")
# What other processors do with the same words is another thing: LeViT's resizes to 8/7 of its size,
# EfficientNet's shifts the pixels, MobileViT's takes blue for red.
PROCESSORS = (*SQUARE, *SHORTER_SIDE, "Siglip", "Blip", "VideoMAE")


def read_processor(config, path):
    """{"preprocessing": fields of `Preprocessing`} of a preprocessor_config.json; {} of none.

    Raises:
        UserError: it does with images what `Preprocessing` can't say.
    """
    if not config:
        return {}
    kind = str(config.get("image_processor_type") or config.get("feature_extractor_type") or "ViT")
    if not kind.startswith(PROCESSORS):
        raise _refused({"image_processor_type": kind}, "image_processor_type", path)
    defaults = {} if kind.startswith("ViTHybrid") or not kind.startswith("ViT") else VIT_PROCESSOR
    config = {**defaults, **{key: value for key, value in config.items() if value is not None}}
    for key in FLAGS:
        needed = {"do_resize": [True], "do_pad": [False]}.get(key, [True, False])
        if key in config and config[key] not in needed:
            raise _refused(config, key, path)
    resize, size = _resize_of(config, kind, path), None
    if config.get("do_center_crop", "crop_size" in config):
        size = config.get("crop_size")
        size = [size.get("height"), size.get("width")] if isinstance(size, dict) else size
    elif "crop_pct" in config and type(resize) is int:  # ConvNext's way
        share = _number(config, "crop_pct", path)
        resize, size = (int(resize / share), resize) if resize < 384 else ([resize, resize], resize)
    else:
        size = resize if isinstance(resize, list) else None
    if size is None:  # the shorter side alone: images of any shape
        raise _refused(config, "size", path)
    mean, std = _colours_of(config, path)
    resample = config.get("resample")
    if type(resample) is not int or not 0 <= resample < len(FILTERS):
        raise _refused(config, "resample", path)
    crop = square_side(size, "its preprocessing makes images of", path)
    told = dict(resize=resize, crop=crop, mean=mean, std=std, resample=FILTERS[resample])
    return _checked(told, path)


def _resize_of(config, kind, path):
    size = config.get("size")
    if type(size) is int and kind.startswith(SQUARE):
        return [size, size]
    if type(size) is int and kind.startswith(SHORTER_SIDE):
        return size
    sides = {k: v for k, v in size.items() if v is not None} if isinstance(size, dict) else {}
    if set(sides) == {"height", "width"}:
        return [sides["height"], sides["width"]]
    if set(sides) == {"shortest_edge"} and type(sides["shortest_edge"]) is int:
        return sides["shortest_edge"]
    raise _refused(config, "size", path)


def _colours_of(config, path):
    """mean and std of pixels in [0, 1], whatever the file scales pixels of 0 to 255 by."""
    factor = 1.0
    if config.get("do_rescale", True):
        factor = _number({"rescale_factor": 1 / 255, **config}, "rescale_factor", path)
    scale = 255 * factor
    scale = 1.0 if abs(scale - 1) < 1e-6 else scale
    if not config.get("do_normalize", True):
        return [0.0] * 3, [1.0 / scale] * 3
    found = []
    for key in ("image_mean", "image_std"):
        values = config.get(key)
        values = [values] * 3 if is_finite(values) else values
        if not isinstance(values, list) or not all(map(is_finite, values)):
            raise _refused(config, key, path)
        found.append([value / scale for value in values])
    return found


def make_processor(preprocessing):
    """The content of the preprocessor_config.json that means a `Preprocessing`."""
    crop = {"height": preprocessing.crop, "width": preprocessing.crop}
    if isinstance(preprocessing.resize, tuple):
        # DeiT's crops what ViT's takes as it is.
        is_crop = preprocessing.resize == (preprocessing.crop, preprocessing.crop)
        kind = "ViTImageProcessor" if is_crop else "DeiTImageProcessor"
        size = dict(zip(("height", "width"), preprocessing.resize))
    else:
        kind, size = "BitImageProcessor", {"shortest_edge": preprocessing.resize}
    cropped = {} if kind.startswith("ViT") else {"do_center_crop": True, "crop_size": crop}
    return {
        "image_processor_type": kind,
        "do_convert_rgb": True,
        "do_resize": True,
        "size": size,
        "resample": FILTERS.index(preprocessing.resample),
        **cropped,
        "do_rescale": True,
        "rescale_factor": 1 / 255,
        "do_normalize": True,
        "image_mean": list(preprocessing.mean),
        "image_std": list(preprocessing.std),
    }


def read_timm(config, state, path):
    """What a config.json of timm says of its model and of images; {} of another's.

    Args:
        state: the tensors, in timm's names.

    Raises:
        UserError: a model that computes something else, or preprocessing that can't be said.
    """
    if not isinstance(config.get("architecture"), str):
        return {}
    args, pretrained = (config.get(key) or {} for key in ("model_args", "pretrained_cfg"))
    if not isinstance(args, dict) or not isinstance(pretrained, dict):
        raise UserError("damaged, model_args and pretrained_cfg must be objects", path=path)
    _check_timm_layers(config, args, state, path)
    sizes = {key: args[key] for key in ("num_heads", "embed_dim", "depth", "in_chans") if key in args}
    for key in ("img_size", "patch_size"):
        if args.get(key) is not None:
            sizes[key] = square_side(args[key], key, path)
    images = pretrained or config  # older files have no groups
    images = {key: value for key, value in images.items() if value is not None}
    names = config.get("label_names") or images.get("label_names") or config.get("labels")
    names = named_classes(names, "label_names", path) if isinstance(names, dict) else names
    facts = {**sizes, **({"classes": names} if names else {})}
    facts.update({"num_classes": config["num_classes"]} if config.get("num_classes") else {})  # or 0
    check_card_types(facts, path)
    if names and facts.setdefault("num_classes", len(names)) != len(names):
        what = f"num_classes={facts['num_classes']}, and there are {len(names)} names of classes"
        raise UserError(f"{what}: mend or remove the one that is wrong", path=path)
    told = ("mean", "std", "crop_pct", "interpolation", "input_size", "crop_mode")
    return {**facts, **(_timm_images(images, sizes, path) if any(k in images for k in told) else {})}


def _timm_images(images, sizes, path):
    """timm's `create_transform` for evaluation, with its defaults, as `read_processor` gives it."""
    size = images.get("input_size") or [3, *[sizes.get("img_size", 224)] * 2]
    crop = square_side(size[1:] if isinstance(size, list) else size, "input_size", path)
    share = _number({"crop_pct": 0.875, **images}, "crop_pct", path)
    mode = images.get("crop_mode") or "center"
    if mode not in ("center", "squash"):
        raise _refused(images, "crop_mode", path)
    side = int(crop / share)
    usual = {"mean": list(IMAGENET_MEAN), "std": list(IMAGENET_STD)}
    told = {key: images.get(key, values) for key, values in usual.items()}
    told.update(resize=[side, side] if mode == "squash" else side, crop=crop)
    told["resample"] = images.get("interpolation") or "bicubic"
    return _checked(told, path)


def _check_timm_layers(config, args, state, path):
    """Raise a UserError for what no tensor's name or shape shows."""
    usual_layers = dict(act_layer="gelu", norm_layer="layernorm", pool_include_prefix=False)
    for key, usual in usual_layers.items():
        if args.get(key, usual) not in (usual, None):
            raise UserError(f"{key}={args[key]}: this model has {usual}", path=path)
    for word, theirs in (("quickgelu", "QuickGELU, this model GELU"), ("rope", "rotary positions")):
        if word in config["architecture"]:
            raise UserError(f"{config['architecture']} has {theirs}", path=path)
    mean = "fc_norm.weight" in state
    for pool in (config.get("global_pool"), args.get("global_pool")):
        if pool is not None and "head.weight" in state and pool != ("avg" if mean else "token"):
            there = f"global_pool={pool or '(none)'} and {'fc_norm' if mean else 'no fc_norm'}"
            raise UserError(
                f"{there}: a classifier here averages patches before fc_norm (avg), or takes the "
                "class token behind norm (token)",
                path=path,
            )


def check_agree(told, path):
    """Raise a UserError where two of those that tell of weights, {teller: {fact: value}}, contradict
    each other."""
    tellers = list(told)
    for i, first in enumerate(tellers):
        for second in tellers[i + 1 :]:
            for key in sorted(set(told[first]) & set(told[second]) - {"epoch", "iteration"}):
                one, other = told[first][key], told[second][key]
                if key == "preprocessing" and one and other:  # a card may leave a part open
                    one, other = (told_preprocessing({**one, **some}, 1) for some in ({}, other))
                if one != other and None not in (one, other):
                    what = f"{first} says {key} {str(one)[:200]}, {second} {str(other)[:200]}"
                    raise UserError(f"{what}: mend or remove the one that is wrong", path=path)


def named_classes(labels, key, path):
    """The names of classes, in the order of the head, of a file's {number as text: name}.

    Raises:
        UserError: it does not give each class, from 0 on, a name.
    """
    labels = labels if isinstance(labels, dict) else {"": labels}
    keys = [str(i) for i in range(len(labels))]
    if set(keys) != set(labels) or not all(isinstance(name, str) for name in labels.values()):
        raise UserError(f"{key} must give each class, from 0 on, a name", path=path)
    return [labels[key] for key in keys]


def square_side(size, key, path):
    """The side of a square from a number or [height, width]; a UserError for other shapes."""
    sides = [size] if type(size) is int else list(size) if isinstance(size, (list, tuple)) else []
    if len(sides) not in (1, 2) or not all(map(is_side, sides)) or sides[0] != sides[-1]:
        what = f"{key} {str(size)[:80]}: a ViT here takes square images and patches"
        raise UserError(what, path=path)
    return sides[0]


def _number(config, key, path):
    value = config[key]
    if type(value) not in (int, float) or not 1e-6 < value < 1e6:
        raise _refused(config, key, path)
    return value


def _refused(config, key, path):
    given = str(config.get(key))[:80]
    way_out = "mend the file, or remove it to take the paper's preprocessing"
    return UserError(f"{key}={given} is nothing that this program does to images: {way_out}", path=path)


def _checked(told, path):
    check_preprocessing(told, path)
    resize = told["resize"]
    if min(resize if isinstance(resize, list) else [resize]) < told["crop"]:
        what = f"it crops {told['crop']} pixels of images resized to {resize}, which this program does not"
        raise UserError(f"{what}: mend the file, or remove it to take the paper's preprocessing", path=path)
    return {"preprocessing": told}
