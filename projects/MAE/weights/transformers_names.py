"""Weights between the authors' names and those of the transformers library (ViT, ViTMAE).

transformers keeps query, key and value apart, gives encoder and decoder blocks longer names, and
puts the encoder of a larger model below `vit.`. Values are moved, never changed.
"""
import os
import re

import numpy as np

from projects.MAE.checkpoint.reader import check_card_types
from projects.MAE.errors import UserError
from projects.MAE.weights.folder_config import named_classes, square_side

BLOCK_PARTS = {
    "norm1": "layernorm_before",
    "attn.proj": "attention.output.dense",
    "norm2": "layernorm_after",
    "mlp.fc1": "intermediate.dense",
    "mlp.fc2": "output.dense",
}
QKV = ("query", "key", "value")
ENCODER = {
    "cls_token": "embeddings.cls_token",
    "pos_embed": "embeddings.position_embeddings",
    "patch_embed.proj.weight": "embeddings.patch_embeddings.projection.weight",
    "patch_embed.proj.bias": "embeddings.patch_embeddings.projection.bias",
    "norm.weight": "layernorm.weight",
    "norm.bias": "layernorm.bias",
    "pooler.dense.weight": "pooler.dense.weight",
    "pooler.dense.bias": "pooler.dense.bias",
}
AROUND = {
    "mask_token": "decoder.mask_token",
    "decoder_pos_embed": "decoder.decoder_pos_embed",
    "head.weight": "classifier.weight",
    "head.bias": "classifier.bias",
    **{
        f"{part}.{kind}": f"decoder.{part}.{kind}"
        for part in ("decoder_embed", "decoder_norm", "decoder_pred")
        for kind in ("weight", "bias")
    },
}
AUTHORS_ENCODER = {theirs: ours for ours, theirs in ENCODER.items()}
AUTHORS_AROUND = {theirs: ours for ours, theirs in AROUND.items()}
# Version 5 has other names in memory, and its save_pretrained turns those of the decoder back wrongly.
NEW_PARTS = {"attention.o_proj": "attn.proj", "mlp.fc1": "mlp.fc1", "mlp.fc2": "mlp.fc2"}
AUTHORS_PARTS = {**{theirs: ours for ours, theirs in BLOCK_PARTS.items()}, **NEW_PARTS}
THEIR_BLOCK = re.compile(
    r"^(encoder\.layer|layers|decoder\.decoder_layers|decoder\.decoder_encoder\.layer)"
    r"\.(\d+)\.(.+)\.(weight|bias)$"
)
# What a config.json calls the sizes that tensors have to agree with.
CONFIG_SIZES = {
    "hidden_size": "embed_dim",
    "num_hidden_layers": "depth",
    "num_channels": "in_chans",
    "intermediate_size": "mlp_width",
}
OUR_BLOCK = re.compile(r"^(decoder_)?blocks\.(\d+)\.(.+)\.(weight|bias)$")
ATTENTION = "attention.attention."
THEIR_QKV = {f"{ATTENTION}{part}": part for part in QKV}
THEIR_QKV.update({f"attention.{part[0]}_proj": part for part in QKV})


def is_transformers(names):
    """Whether tensor names are those of transformers' ViT or ViTMAE."""
    return any(n.endswith("embeddings.patch_embeddings.projection.weight") for n in names)


def from_transformers(state, source):
    """{name: array} of ViTModel, ViTForImageClassification, ViTMAEModel or ViTMAEForPreTraining,
    with the authors' names.

    Raises:
        UserError: a tensor that none of them has, or a query without its key and value.
    """
    result, apart = {}, {}
    for full_name, array in state.items():
        name = full_name[4:] if full_name.startswith("vit.") else full_name
        block = THEIR_BLOCK.match(name)
        if name in AUTHORS_ENCODER:
            result[AUTHORS_ENCODER[name]] = array
        elif name in AUTHORS_AROUND:
            result[AUTHORS_AROUND[name]] = array
        elif block and block[3] in AUTHORS_PARTS:
            result[f"{_our_block(block)}.{AUTHORS_PARTS[block[3]]}.{block[4]}"] = array
        elif block and block[3] in THEIR_QKV:
            fused = apart.setdefault(f"{_our_block(block)}.attn.qkv.{block[4]}", {})
            fused[THEIR_QKV[block[3]]] = array
        else:
            raise UserError(f"the tensor {full_name} is not one of a ViT or ViTMAE", path=source)
    for name, parts in apart.items():
        shapes = {array.shape for array in parts.values()}
        if set(parts) != set(QKV) or len(shapes) != 1:
            missing = sorted(set(QKV) - set(parts))
            raise UserError(f"{name}: {missing or shapes} of query, key and value differ", path=source)
        if shapes == {()}:
            raise UserError(f"{name}: query, key and value are single numbers", path=source)
        result[name] = np.concatenate([parts[part] for part in QKV])
    return result


def _our_block(match):
    return ("decoder_blocks." if match[1].startswith("decoder") else "blocks.") + match[2]


def to_transformers(state, bare):
    """The authors' {name: array} with transformers' names.

    Args:
        bare: for ViTModel or ViTMAEModel, whose encoder is the whole model.
    """
    prefix = "" if bare else "vit."
    result = {}
    for name, array in state.items():
        block = OUR_BLOCK.match(name)
        if name in ENCODER:
            result[prefix + ENCODER[name]] = array
        elif not block:
            result[AROUND[name]] = array
        else:
            layers = "decoder.decoder_layers" if block[1] else f"{prefix}encoder.layer"
            layer = f"{layers}.{block[2]}"
            if block[3] == "attn.qkv":
                for part, values in zip(QKV, np.split(array, 3)):
                    result[f"{layer}.{ATTENTION}{part}.{block[4]}"] = values
            else:
                result[f"{layer}.{BLOCK_PARTS[block[3]]}.{block[4]}"] = array
    return result


def read_config(config, source):
    """What a config.json tells: heads, sizes, norm_pix_loss, mask_ratio, classes.

    Raises:
        UserError: another kind of model, or one that computes something else.
    """
    kind = config.get("model_type")
    if kind not in ("vit", "vit_mae"):
        raise UserError(f"config.json is of a model_type {kind}, not vit or vit_mae", path=source)
    for key, needed in (("hidden_act", "gelu"), ("qkv_bias", True)):
        if config.get(key, needed) != needed:
            raise UserError(f"config.json has {key}={config[key]}, MAE has {needed}", path=source)
    eps = config.get("layer_norm_eps", 1e-12)  # any as small as MAE's gives the same features
    if type(eps) not in (int, float) or not 0 <= eps <= 1e-5:
        raise UserError(f"config.json has layer_norm_eps={eps}, MAE has 1e-6", path=source)
    where = os.path.join(source, "config.json")
    # config.json may leave out what equals the library's defaults.
    facts = {"num_heads": config.get("num_attention_heads", 12)}
    facts.update((ours, config[theirs]) for theirs, ours in CONFIG_SIZES.items() if theirs in config)
    for theirs, ours in (("image_size", "img_size"), ("patch_size", "patch_size")):
        if theirs in config:
            facts[ours] = square_side(config[theirs], theirs, where)
    if kind == "vit_mae":
        facts["decoder_num_heads"] = config.get("decoder_num_attention_heads", 16)
        facts["norm_pix_loss"] = config.get("norm_pix_loss", False)
        facts["mask_ratio"] = config.get("mask_ratio", 0.75)
    told = {"problem_type": "problem_type", "num_labels": "num_classes"}
    facts.update((ours, config[theirs]) for theirs, ours in told.items() if config.get(theirs))
    check_card_types(facts, where)
    return {**facts, **_class_names(config, where)}


def _class_names(config, path):
    """The names of classes and their number, as far as a config.json says them; in what it says
    twice it has to agree with itself."""
    names = named_classes(config.get("id2label") or {}, "id2label", path)
    places = config.get("label2id")
    for name, place in (places or {}).items() if isinstance(places, dict) else ():
        index = int(place) if str(place)[:10].isdecimal() and len(str(place)) < 10 else len(names)
        found = names[index] if index < len(names) else None
        if names and found != name and name != f"LABEL_{place}":  # the library's, where nobody set it
            what = f"label2id says that {name} is {place}, id2label says {found}"
            raise UserError(f"{what}: mend or remove the one that is wrong", path=path)
    if names and config.get("num_labels", len(names)) not in (len(names), None):
        what = f"num_labels={config['num_labels']}, and id2label has {len(names)} names"
        raise UserError(f"{what}: mend or remove the one that is wrong", path=path)
    facts = {"num_classes": len(names)} if names else {}
    while names and names[-1] == f"LABEL_{len(names) - 1}":  # the library's, for one without a name
        names.pop()
    return {**facts, "classes": names} if names else facts


def make_config(sizes, facts):
    """The content of config.json for a model of `sizes` (modeling.sizes.Sizes) and `facts`."""
    config = {
        "architectures": ["ViTForImageClassification"],
        "model_type": "vit",
        "hidden_size": sizes.embed_dim,
        "num_hidden_layers": sizes.depth,
        "num_attention_heads": facts["num_heads"],
        "intermediate_size": sizes.mlp_width,
        "image_size": sizes.img_size,
        "patch_size": sizes.patch_size,
        "num_channels": sizes.in_chans,
        "hidden_act": "gelu",
        "hidden_dropout_prob": 0.0,
        "attention_probs_dropout_prob": 0.0,
        "layer_norm_eps": 1e-6,  # the library's default is 1e-12
        "qkv_bias": True,
        "initializer_range": 0.02,
        "torch_dtype": "float32",
    }
    if sizes.parts == "classifier":
        names = list(facts.get("classes", []))
        names += [f"LABEL_{i}" for i in range(len(names), sizes.num_classes)]
        config["id2label"] = {str(i): name for i, name in enumerate(names)}
        config["label2id"] = {name: i for i, name in enumerate(names)}
        config.update({"problem_type": facts["problem_type"]} if "problem_type" in facts else {})
        return config
    is_full = sizes.parts == "full"
    config["model_type"] = "vit_mae"
    config["architectures"] = ["ViTMAEForPreTraining" if is_full else "ViTMAEModel"]
    config["mask_ratio"] = facts.get("mask_ratio", 0.75)
    config["norm_pix_loss"] = bool(facts.get("norm_pix_loss", False))
    if is_full:
        config["decoder_hidden_size"] = sizes.decoder_embed_dim
        config["decoder_num_hidden_layers"] = sizes.decoder_depth
        config["decoder_num_attention_heads"] = facts["decoder_num_heads"]
        config["decoder_intermediate_size"] = sizes.decoder_mlp_width
    return config
