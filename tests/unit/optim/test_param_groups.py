"""Which parameters decay, and how much each layer's rate is scaled."""
import json

import pytest

from projects.MAE.optim.param_groups import param_groups_lrd, param_groups_weight_decay
from tests.conftest import DATA
from tests.support.golden_models import tiny_mae, tiny_vit
from projects.MAE.weights.libai_names import libai_to_torch


def torch_names(model):
    """{parameter: its name in the authors' files}."""
    arrays = {name: p.numpy() for name, p in model.named_parameters()}
    heads = dict(num_heads=model.num_heads)
    heads["decoder_num_heads"] = getattr(model, "decoder_num_heads", None)
    renamed = list(libai_to_torch(arrays, **heads))
    return {id(p): name for p, name in zip(dict(model.named_parameters()).values(), renamed)}


def settings(groups, names):
    return {
        names[id(p)]: {"lr_scale": group["lr_scale"], "weight_decay": group["weight_decay"]}
        for group in groups
        for p in group["params"]
    }


def test_layer_decay_of_every_parameter(golden):
    model = tiny_vit(golden("finetune_tiny"), global_pool=True)
    found = settings(param_groups_lrd(model, 0.05, 0.65), torch_names(model))
    expected = json.loads((DATA / "finetune_tiny_param_groups.json").read_text())
    assert set(found) == set(expected)
    for name, group in expected.items():
        assert found[name]["weight_decay"] == group["weight_decay"], name
        assert found[name]["lr_scale"] == pytest.approx(group["lr_scale"], rel=1e-12), name


def test_pretraining_decays_matrices_and_tokens(golden):
    model = tiny_mae(golden("pretrain_tiny"), norm_pix_loss=True)
    found = settings(param_groups_weight_decay(model, 0.05), torch_names(model))
    assert "pos_embed" not in found and "decoder_pos_embed" not in found  # frozen
    shapes = {name: p.ndim for name, p in model.named_parameters()}
    assert len(found) == len(shapes) - 2
    for name, group in found.items():
        one_dimensional = name.endswith("bias") or "norm" in name
        assert group == {"lr_scale": 1.0, "weight_decay": 0.0 if one_dimensional else 0.05}, name
    assert found["cls_token"]["weight_decay"] == found["mask_token"]["weight_decay"] == 0.05
