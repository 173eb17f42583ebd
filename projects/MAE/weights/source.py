"""Weights in any of the formats, and what is known about the model they are of."""
import collections
import logging
import os

from omegaconf import OmegaConf
from omegaconf.errors import OmegaConfBaseException

from projects.MAE.checkpoint.names import find_checkpoint, has_checkpoint
from projects.MAE.checkpoint.reader import check_card_types, read_card, read_weights
from projects.MAE.data.preprocessing import (
    configured_preprocessing,
    standard_preprocessing,
    told_preprocessing,
)
from projects.MAE.errors import UserError, printable
from projects.MAE.utils.untrusted_file import LARGEST_YAML, read_text, yaml_mapping
from projects.MAE.weights.files import check_no_ema, read_weight_file_told
from projects.MAE.weights.libai_names import MAIN, from_libai_main, libai_to_torch, linear_layout
from projects.MAE.weights.plain_config import without_references
from projects.MAE.weights.sizes import MOCO, check_token, known_heads, sizes_of

logger = logging.getLogger("libai." + __name__)

HEADS = ("num_heads", "decoder_num_heads")
# What else than its sizes a model card may say.
FACTS = (*HEADS, "norm_pix_loss", "mask_ratio", "classes", "epoch", "iteration", "preprocessing")
FACTS += ("exif", "bits", "problem_type")
# What reading another thing than a list of transforms raises.
DAMAGE = (TypeError, ValueError, KeyError, AttributeError, ArithmeticError, RecursionError)
CONFIG_FACTS = (*HEADS, "norm_pix_loss", "mask_ratio", "global_pool")
ASSUMED = ("the known sizes of ViT", MOCO)  # tellers that go by the width alone

WeightSource = collections.namedtuple("WeightSource", "path state sizes facts known_from")
WeightSource.__doc__ = """Weights that were read.

path: what was read: a file or folder, the checkpoint where an output folder was named.
state: {name: float32 array} in the authors' names.
sizes: `modeling.sizes.Sizes`, read from the tensors.
facts: what tensors can't tell, those of FACTS that are known.
known_from: {fact: who told it}, "its model card" for example.
"""


def read_source(path, heads_needed=True, ema=False, decoder_needed=True, **options):
    """The `WeightSource` of weights of any format.

    Args:
        path: a LiBai checkpoint or the output folder of a run, a .pth or safetensors file, a folder
            of transformers.
        heads_needed: whether an unknown number of heads is an error.
        ema: take the averaged weights of a file that has both.
        decoder_needed: False leaves out a decoder of which the number of heads is not known.
        options: facts that the user gave, None where not; they may only add to what the source says.

    Raises:
        UserError: it can't be read or is no whole model; what is told about it contradicts itself;
            the number of heads is needed and not known; it takes images of other than 3 channels.
    """
    path = str(path)
    if os.path.isdir(path) and has_checkpoint(path):
        path = find_checkpoint(path)
        check_no_ema(path, ema)
        weights, told = read_checkpoint(path)
        facts, known_from = _joined(told, weights, options, path)
        if not decoder_needed and not facts.get("decoder_num_heads"):
            weights = _encoder_of(weights)
        _check_heads(weights, facts, path, needed=True)
        state = libai_to_torch(weights, facts["num_heads"], facts.get("decoder_num_heads"))
    else:
        state, told = read_weight_file_told(path, ema)
        facts, known_from = _joined(told, state, options, path)
        if not decoder_needed and not facts.get("decoder_num_heads"):
            state = _encoder_of(state)
        _check_heads(state, facts, path, heads_needed)
    sizes = sizes_of(state, path)
    for key, value in sizes._asdict().items():
        if value is not None and facts.get(key, value) != value:
            raise UserError(f"{known_from[key]} says {key}={facts[key]}, its tensors {value}", path=path)
    names = facts.get("classes") or []
    if sizes.num_classes and len(names) > sizes.num_classes:
        what = f"{known_from['classes']} names {len(names)} classes, its head has {sizes.num_classes}"
        raise UserError(what, path=path)
    if sizes.in_chans != 3:
        raise UserError(f"its images have {sizes.in_chans} channels, not RGB's 3", path=path)
    for key in HEADS:
        if key in facts and known_from[key] in ASSUMED:
            of = known_from[key] if known_from[key] == MOCO else "its width and depth"
            option = "--" + key.replace("_", "-")
            what = f"{key}={facts[key]} is assumed from {of}: {option} N sets another number"
            logger.warning(printable(f"{path}: {what}"))
    facts = {key: facts[key] for key in FACTS if key in facts}
    return WeightSource(path, state, sizes, facts, {key: known_from[key] for key in facts})


def _encoder_of(state):
    return {n: a for n, a in state.items() if not n.startswith(("decoder_", "mask_token"))}


def check_one_label(facts, path):
    """Raise a UserError where a head is none that gives an image one of its classes."""
    kind = facts.get("problem_type") or "single_label_classification"
    if kind != "single_label_classification":
        what = f"problem_type={kind}: its outputs are not the scores of classes of which one is right"
        way_out = "take its features, or finetune from it (other classes have a new head)"
        raise UserError(what, path=path, way_out=way_out)


def read_checkpoint(path, global_pool=None):
    """{LiBai's name: float32 array} of a checkpoint folder, and the facts by who tells them.

    One of LiBai's own projects/MAE (its main branch's layout) is brought into this project's.

    Args:
        global_pool: whether its classifier averages the patches, where neither its card nor its run's
            config.yaml tells; LiBai's own configurations do.
    """
    weights = read_weights(path)
    if "cls_token" not in weights:
        raise UserError("not the weights of a ViT, it has no cls_token", path=path)
    for name in ("cls_token", "mask_token"):
        if name in weights:
            check_token(weights, name, path)
    width = weights["cls_token"].shape[-1]
    told = {"its run's config.yaml": run_facts(path, width), "its model card": read_card(path)}
    if linear_layout(weights, path) == MAIN:
        said = {key: value for facts in told.values() for key, value in facts.items()}
        pooled = said.get("global_pool", global_pool)
        weights = from_libai_main(weights, pooled is not False)
        what = "weights of LiBai's own projects/MAE (LayerNorm eps in its blocks 1e-5, here 1e-6)"
        if "fc_norm.weight" in weights and pooled is None:
            what += "; assumed that its head averages the patches: its run's config.yaml would tell"
        logger.warning(printable(f"{path}: {what}"))
    return weights, told


def preprocessing_of(source):
    """The evaluation `Preprocessing` that goes with a `WeightSource`, and words for its origin.

    Raises:
        UserError: it is said to make images of another size than the model takes.
    """
    size = source.sizes.img_size
    told = source.facts.get("preprocessing")
    if not told:
        return standard_preprocessing(size), "the paper's, the weights don't say"
    preprocessing, origin = told_preprocessing(told, size), source.known_from["preprocessing"]
    if preprocessing.crop != size:
        what = f"{origin} says that images are {preprocessing.crop} pixels wide, its tensors {size}"
        raise UserError(f"{what}: mend the file that is wrong", path=source.path)
    return preprocessing, origin


def run_config(checkpoint, embed_dim):
    """The config.yaml of the run that made a checkpoint folder; None where there is none, or it is
    of a model of another width."""
    path = _config_of(checkpoint)
    if not os.path.lexists(path):
        return None
    try:
        content = yaml_mapping(read_text(path, LARGEST_YAML))
    except (OSError, ValueError, UserError) as error:
        logger.warning(printable(f"{path} is not read: {error}"))
        return None
    model = content.get("model")
    # Another one: the folder was used again.
    cfg = without_references(content) if isinstance(model, dict) else {}
    return OmegaConf.create(cfg) if cfg and cfg["model"].get("embed_dim") == embed_dim else None


def _config_of(checkpoint):
    return os.path.join(os.path.dirname(os.path.abspath(checkpoint)), "config.yaml")


def run_facts(checkpoint, embed_dim):
    """What `run_config` says of the model and its images; {} without one."""
    cfg = run_config(checkpoint, embed_dim)
    if cfg is None:
        return {}
    path = _config_of(checkpoint)
    try:
        facts = {key: OmegaConf.select(cfg, f"model.{key}") for key in CONFIG_FACTS}
        preprocessing = configured_preprocessing(cfg)
        facts["preprocessing"] = dict(preprocessing._asdict()) if preprocessing else None
    except (*DAMAGE, OmegaConfBaseException) as error:
        raise UserError(f"damaged ({type(error).__name__})", path=path) from None
    check_card_types(facts, path)
    return {key: value for key, value in facts.items() if value is not None}


def _joined(told, state, options, path):
    """All facts, and {fact: who told it}: known sizes, then the source, then the user's options."""
    facts = known_heads(state)
    known_from = dict.fromkeys(facts, "the known sizes of ViT")
    for teller, some in told.items():
        facts.update(some)
        known_from.update(dict.fromkeys(some, teller))
    for key, value in options.items():
        if value is None:
            continue
        option = "--" + key.replace("_", "-")
        if facts.get(key, value) != value and known_from[key] not in ASSUMED:
            raise UserError(f"{option} says {value}, but {path} says {facts[key]}")
        facts[key], known_from[key] = value, option
    return facts, known_from


def _check_heads(state, facts, path, needed):
    """Raise a UserError where a number of heads can't be, or is needed and not known.

    Tensors have the same shapes for any number of heads, so none of them can tell.
    """
    for key, token in zip(HEADS, ("cls_token", "mask_token")):
        if token not in state or not facts.get(key):
            facts.pop(key, None)
        if token not in state or not needed and key not in facts:
            continue
        width = state[token].shape[-1]
        if key not in facts:
            what = f"its number of attention heads is not known (width {width})"
            raise UserError(f"{what}: give --{key.replace('_', '-')}", path=path)
        if facts[key] < 1 or width % facts[key]:
            raise UserError(f"{key}={facts[key]} does not divide its width {width}", path=path)
