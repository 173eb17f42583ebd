"""Parameter groups: which parameters decay, and by how much a layer's rate is scaled."""


def _groups(model, weight_decay, decays, lr_scale, clip_grad_max_norm, clip_grad_norm_type):
    """A list of {"params", "lr_scale", "weight_decay"}, and where gradients are clipped of
    {"clip_grad_max_norm", "clip_grad_norm_type"}; frozen parameters are left out."""
    clips = dict(clip_grad_max_norm=clip_grad_max_norm, clip_grad_norm_type=clip_grad_norm_type)
    clips = clips if clip_grad_max_norm is not None else {}
    groups = {}
    for name, parameter in model.named_parameters():
        if not parameter.requires_grad:
            continue
        key = (lr_scale(name), weight_decay if decays(name, parameter) else 0.0)
        groups.setdefault(key, []).append(parameter)
    return [
        {"params": parameters, "lr_scale": scale, "weight_decay": decay, **clips}
        for (scale, decay), parameters in groups.items()
    ]


def param_groups_weight_decay(
    model, weight_decay=0.05, clip_grad_max_norm=None, clip_grad_norm_type=2.0
):
    """Groups for pretraining: biases and 1-D weights don't decay, tokens do.

    With clip_grad_max_norm gradients are clipped, see `optim/clipping.py`; the names are LiBai's.
    """
    clips = clip_grad_max_norm, clip_grad_norm_type
    return _groups(model, weight_decay, lambda name, p: p.ndim > 1, lambda name: 1.0, *clips)


def layer_of(name, depth):
    """The layer a classifier's parameter counts to: 0 for the embeddings, depth + 1 for the head."""
    if name in ("cls_token", "pos_embed") or name.startswith("patch_embed"):
        return 0
    if name.startswith("blocks."):
        return int(name.split(".")[1]) + 1
    return depth + 1


def param_groups_lrd(
    model, weight_decay=0.05, layer_decay=0.75, clip_grad_max_norm=None, clip_grad_norm_type=2.0
):
    """Groups for finetuning with layer-wise rate decay (BEiT, arXiv 2106.08254).

    A parameter of layer i gets lr_scale = layer_decay ** (depth + 1 - i). 1-D parameters, the
    class token and the position embedding don't decay. For the last two arguments see
    `param_groups_weight_decay`.
    """
    return _groups(
        model,
        weight_decay,
        lambda name, p: p.ndim > 1 and name not in ("cls_token", "pos_embed"),
        lambda name: layer_decay ** (model.depth + 1 - layer_of(name, model.depth)),
        clip_grad_max_norm,
        clip_grad_norm_type,
    )
