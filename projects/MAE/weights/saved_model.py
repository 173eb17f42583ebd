"""Models built from saved weights of any format, for the commands that use them."""
import collections
import logging

from projects.MAE.data.preprocessing import WHOLE
from projects.MAE.errors import UserError
from projects.MAE.modeling.initialization import assign, named_tensors
from projects.MAE.modeling.linear_probe import LinearProbe
from projects.MAE.modeling.mae import MaskedAutoencoderViT
from projects.MAE.modeling.sizes import shapes_of
from projects.MAE.modeling.vit import VisionTransformer
from projects.MAE.weights.libai_names import torch_to_libai
from projects.MAE.weights.source import check_one_label, preprocessing_of, read_source

logger = logging.getLogger("libai." + __name__)

HOLDS = {
    "encoder": "an encoder",
    "full": "an autoencoder",
    "classifier": "a classifier",
    "probe": "a linear probe",
}
FIELDS = "model sizes facts known_from preprocessing source"
SavedModel = collections.namedtuple("SavedModel", FIELDS)
SavedModel.__doc__ = """A model in evaluation mode with saved weights, and what is known about them.

model: MaskedAutoencoderViT, VisionTransformer or LinearProbe, on the device of `start_one_process`.
sizes: `modeling.sizes.Sizes` of the weights: parts, img_size, patch_size, embed_dim, depth, ...
facts: those that are known of num_heads, decoder_num_heads, norm_pix_loss, mask_ratio, classes (a
    list of names), epoch, iteration.
known_from: {fact: who told it}, for the facts and "preprocessing".
preprocessing: `Preprocessing`; `preprocessing.transform()` makes an image the model's input.
source: the path that was read.
"""


def load_autoencoder(path, mask_ratio=None, **options):
    """A `SavedModel` whose model is a whole MaskedAutoencoderViT.

    Args:
        path: weights in any format, see `source.read_source`.
        mask_ratio: of the model; by default what it was trained with, else 0.75.
        options: num_heads, decoder_num_heads, norm_pix_loss where the weights don't tell; ema.

    Raises:
        UserError: no decoder in the weights; something that they don't tell and options don't give.
    """
    source = read_source(path, **options)
    sizes, facts = source.sizes, source.facts
    if sizes.parts != "full":
        raise UserError(
            f"{HOLDS[sizes.parts]} without a decoder, so it can't reconstruct: use weights that "
            "hold both, the authors' mae_visualize_vit_*.pth or mae_pretrain_vit_*_full.pth, or the "
            "output of mae_pretraining.py",
            path=path,
        )
    if "norm_pix_loss" not in facts:
        raise UserError(
            "it does not say whether it was trained on normalised pixels, and without that "
            "its predictions are no pixels: give --norm-pix-loss yes (the authors' *_full.pth) or "
            "no (their mae_visualize_*.pth)",
            path=path,
        )
    mlp_ratio = sizes.mlp_width / sizes.embed_dim
    if sizes.decoder_mlp_width != int(sizes.decoder_embed_dim * mlp_ratio):
        raise UserError("encoder and decoder differ in mlp_ratio, which this model can't", path=path)
    model = MaskedAutoencoderViT(
        **_common_sizes(source),
        decoder_embed_dim=sizes.decoder_embed_dim,
        decoder_depth=sizes.decoder_depth,
        decoder_num_heads=facts["decoder_num_heads"],
        norm_pix_loss=facts["norm_pix_loss"],
        mask_ratio=mask_ratio or facts.get("mask_ratio", 0.75),
    )
    return _filled(model, source, source.state)


def load_classifier(path, **options):
    """A `SavedModel` whose model is a VisionTransformer with its head, or a LinearProbe.

    Arguments and errors are those of `load_autoencoder`.
    """
    source = read_source(path, **options)
    sizes = source.sizes
    if sizes.parts not in ("classifier", "probe"):
        raise UserError(
            f"{HOLDS[sizes.parts]} without a classifier: use the output of mae_finetune.py or "
            "mae_linprobe.py, the authors' mae_finetuned_vit_*.pth, or a ViT of timm or transformers "
            "with its head",
            path=path,
        )
    check_one_label(source.facts, source.path)
    kind = LinearProbe if sizes.parts == "probe" else VisionTransformer
    head = dict(global_pool=sizes.global_pool, num_classes=sizes.num_classes)
    return _filled(kind(**_common_sizes(source), **head), source, source.state)


def load_encoder_model(path, **options):
    """A `SavedModel` whose model is a VisionTransformer without a head. It has the final norm that
    the weights have: `norm`, or `fc_norm` (global_pool=True) from a classifier on the mean.

    Arguments and errors are those of `load_autoencoder`.
    """
    source = read_source(path, decoder_needed=False, **options)
    sizes = source.sizes
    pool = bool(sizes.global_pool)
    model = VisionTransformer(**_common_sizes(source), global_pool=pool, num_classes=0)
    encoder = shapes_of(sizes._replace(parts="encoder"))
    return _filled(model, source, {name: source.state[name] for name in encoder})


def _common_sizes(source):
    sizes = source.sizes
    keys = ("img_size", "patch_size", "in_chans", "embed_dim", "depth")
    common = {key: getattr(sizes, key) for key in keys}
    mlp_ratio = sizes.mlp_width / sizes.embed_dim
    return dict(common, num_heads=source.facts["num_heads"], mlp_ratio=mlp_ratio)


def _filled(model, source, state):
    """The model with {authors' name: array} in it, as a `SavedModel`."""
    facts = source.facts
    weights = torch_to_libai(state, facts["num_heads"], facts.get("decoder_num_heads"))
    for name, tensor in named_tensors(model).items():
        assign(tensor, weights[name])
    preprocessing, origin = preprocessing_of(source)
    told = facts.get("preprocessing") or {}
    if not set(WHOLE) <= set(told):
        said = "the weights don't say how images are prepared, so as in the paper"
        if told:
            said = f"of how images are prepared the weights say {', '.join(told)} alone, the rest as in "
            said += "the paper"
        logger.warning(f"{source.path}: {said}: {preprocessing}")
    facts = {key: value for key, value in facts.items() if key != "preprocessing"}
    told = {**source.known_from, "preprocessing": origin}
    return SavedModel(model.eval(), source.sizes, facts, told, preprocessing, source.path)
