"""The tiny models of the golden vectors, with the golden weights."""
import numpy as np
import oneflow as flow
from libai.utils import distributed as dist

from projects.MAE.modeling.global_tensors import batch_sbp
from projects.MAE.modeling.initialization import assign
from projects.MAE.modeling.mae import MaskedAutoencoderViT
from projects.MAE.modeling.vit import VisionTransformer
from projects.MAE.weights.libai_names import torch_to_libai


def part(golden, prefix):
    """The entries of a golden file below a prefix, without it."""
    return {k[len(prefix) :]: v for k, v in golden.items() if k.startswith(prefix)}


def to_global(array):
    """A NumPy batch as the trainer hands it to a model."""
    return flow.from_numpy(np.ascontiguousarray(array)).to_global(
        sbp=batch_sbp(), placement=dist.get_layer_placement(0)
    )


def load(model, torch_state, **heads):
    state = torch_to_libai(torch_state, **heads)
    names = dict(model.named_parameters())
    assert set(names) == set(state)
    for name, parameter in names.items():
        assign(parameter, state[name])
    return model


def tiny_mae(golden, norm_pix_loss):
    model = MaskedAutoencoderViT(
        img_size=32,
        patch_size=8,
        embed_dim=32,
        depth=2,
        num_heads=4,
        decoder_embed_dim=24,
        decoder_depth=2,
        decoder_num_heads=4,
        norm_pix_loss=norm_pix_loss,
        mask_ratio=0.75,
    )
    return load(model, part(golden, "state/"), num_heads=4, decoder_num_heads=4)


def tiny_vit(golden, global_pool):
    model = VisionTransformer(
        img_size=32,
        patch_size=8,
        embed_dim=32,
        depth=3,
        num_heads=4,
        num_classes=10,
        global_pool=global_pool,
    )
    prefix = "global_pool/state/" if global_pool else "cls_token/state/"
    return load(model, part(golden, prefix), num_heads=4)
