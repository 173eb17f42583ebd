"""One model in every layout reads as the same tensors; what is no known layout is refused."""
import json

import numpy as np
import pytest
from safetensors.numpy import save_file

from projects.MAE.errors import UserError
from projects.MAE.modeling.sizes import shapes_of
from projects.MAE.weights.files import read_weight_file
from tests.conftest import DATA
from tests.support.checkpoints import load_torch_state_dict
from projects.MAE.weights.sizes import sizes_of
from projects.MAE.weights.torch_file import read_torch_file
from projects.MAE.weights.transformers_names import make_config, to_transformers

FILES = DATA / "weights"


def assert_same(first, second):
    assert set(first) == set(second)
    for name, array in first.items():
        assert array.dtype == np.float32
        np.testing.assert_array_equal(array, second[name])


def write_folder(folder, tensors, config):
    folder.mkdir()
    save_file(tensors, folder / "model.safetensors")
    (folder / "config.json").write_text(json.dumps(config))


def config_of(state, **facts):
    return make_config(sizes_of(state, "test"), {"num_heads": 4, "decoder_num_heads": 4, **facts})


def test_the_authors_training_file():
    state, facts = read_weight_file(FILES / "training_full.pth")
    assert_same(state, dict(read_torch_file(FILES / "training_full.pth")["model"]))
    assert facts == {"epoch": 799, "norm_pix_loss": True, "mask_ratio": 0.75}
    assert sizes_of(state, "test").parts == "full"


def test_float16_becomes_float32():
    state = load_torch_state_dict(FILES / "encoder_float16.pth")
    raw = read_torch_file(FILES / "encoder_float16.pth")
    assert raw["cls_token"].dtype == np.float16
    assert_same(state, {name: array.astype(np.float32) for name, array in raw.items()})
    assert sizes_of(state, "test").parts == "encoder"


def test_safetensors(full, tmp_path):
    save_file(full, tmp_path / "weights.safetensors")
    assert_same(load_torch_state_dict(tmp_path / "weights.safetensors"), full)


def test_transformers_pretraining_folder(full, tmp_path):
    config = config_of(full, norm_pix_loss=True)
    write_folder(tmp_path / "mae", to_transformers(full, bare=False), config)
    state, facts = read_weight_file(tmp_path / "mae")
    assert_same(state, full)
    heads = {"num_heads": 4, "decoder_num_heads": 4, "norm_pix_loss": True, "mask_ratio": 0.75}
    assert {key: facts[key] for key in heads} == heads


def test_transformers_encoder_without_prefix(full, tmp_path):
    encoder = {n: a for n, a in full.items() if not n.startswith(("decoder_", "mask_token"))}
    tensors = to_transformers(encoder, bare=True)
    assert "embeddings.cls_token" in tensors and "layernorm.bias" in tensors
    write_folder(tmp_path / "encoder", tensors, config_of(encoder))
    assert_same(load_torch_state_dict(tmp_path / "encoder"), encoder)


def test_transformers_classifier(classifier, tmp_path):
    tensors = to_transformers(classifier, bare=False)
    config = config_of(classifier, classes=[f"class{i}" for i in range(10)])
    assert config["id2label"]["3"] == "class3" and config["layer_norm_eps"] == 1e-6
    write_folder(tmp_path / "vit", tensors, config)
    state, facts = read_weight_file(tmp_path / "vit")
    assert_same(state, classifier)
    assert facts["num_heads"] == 4 and facts["classes"][9] == "class9"


def test_transformers_pooler_is_read_and_left_alone(classifier, tmp_path):
    tensors = to_transformers(classifier, bare=False)
    tensors["vit.pooler.dense.weight"] = np.ones((32, 32), np.float32)
    write_folder(tmp_path / "vit", tensors, config_of(classifier))
    state = load_torch_state_dict(tmp_path / "vit")
    assert set(state) - set(classifier) == {"pooler.dense.weight"}
    assert sizes_of(state, "test") == sizes_of(classifier, "test")


def test_transformers_in_several_files(classifier, tmp_path):
    tensors = to_transformers(classifier, bare=False)
    names = sorted(tensors)
    parts = {"a.safetensors": names[::2], "b.safetensors": names[1::2]}
    for file, keys in parts.items():
        save_file({key: tensors[key] for key in keys}, tmp_path / file)
    index = {"weight_map": {key: file for file, keys in parts.items() for key in keys}}
    (tmp_path / "model.safetensors.index.json").write_text(json.dumps(index))
    (tmp_path / "config.json").write_text(json.dumps(config_of(classifier)))
    assert_same(load_torch_state_dict(tmp_path), classifier)
    state, facts = read_weight_file(tmp_path / "model.safetensors.index.json")
    assert_same(state, classifier)
    assert facts == read_weight_file(tmp_path)[1]


def test_names_in_any_script(classifier, tmp_path):
    """As UTF-8, whatever the locale, and with the mark that some editors begin a file with."""
    names = {str(i): f"ж{i}" for i in range(10)}
    config = {**config_of(classifier), "id2label": names, "label2id": {}}
    write_folder(tmp_path / "vit", to_transformers(classifier, bare=False), config)
    text = "\ufeff" + json.dumps(config, ensure_ascii=False)
    (tmp_path / "vit" / "config.json").write_bytes(text.encode())
    assert read_weight_file(tmp_path / "vit")[1]["classes"][9] == "ж9"


@pytest.mark.parametrize(
    "change, message",
    [
        (dict(model_type="bert"), "model_type bert"),
        (dict(hidden_act="relu"), "hidden_act=relu"),
        (dict(qkv_bias=False), "qkv_bias=False"),
    ],
)
def test_transformers_models_that_compute_something_else(classifier, tmp_path, change, message):
    config = {**config_of(classifier), **change}
    write_folder(tmp_path / "vit", to_transformers(classifier, bare=False), config)
    with pytest.raises(UserError, match=message):
        load_torch_state_dict(tmp_path / "vit")


@pytest.mark.parametrize(
    "name, message",
    [
        ("blocks.0.ls1.gamma", "blocks.0.ls1.gamma has no place in a plain ViT"),
        ("blocks.0.attn.q_norm.weight", "q_norm.weight has no place"),
        ("head_dist.weight", "head_dist.weight has no place"),
    ],
)
def test_variants_are_not_taken_for_a_plain_vit(full, tmp_path, name, message):
    save_file({**full, name: np.ones(3, np.float32)}, tmp_path / "w.safetensors")
    with pytest.raises(UserError, match=message):
        load_torch_state_dict(tmp_path / "w.safetensors")


def test_unknown_layouts(full, tmp_path):
    with pytest.raises(UserError, match="no such file|No such file"):
        load_torch_state_dict(tmp_path / "absent.pth")
    with pytest.raises(UserError, match="a folder without weights"):
        load_torch_state_dict(tmp_path)
    with pytest.raises(UserError, match="float64 is no tensor|others is no tensor"):
        load_torch_state_dict(FILES / "kinds.pth")


def test_integers_are_no_weights(full, tmp_path):
    save_file({**full, "norm.bias": np.arange(32)}, tmp_path / "w.safetensors")
    with pytest.raises(UserError, match="norm.bias holds int64"):
        load_torch_state_dict(tmp_path / "w.safetensors")


def test_truncated_safetensors(full, tmp_path):
    save_file(full, tmp_path / "w.safetensors")
    whole = (tmp_path / "w.safetensors").read_bytes()
    (tmp_path / "w.safetensors").write_bytes(whole[:-100])
    with pytest.raises(UserError, match="truncated"):
        load_torch_state_dict(tmp_path / "w.safetensors")


def test_a_query_without_its_key(classifier, tmp_path):
    tensors = to_transformers(classifier, bare=False)
    del tensors["vit.encoder.layer.1.attention.attention.key.weight"]
    write_folder(tmp_path / "vit", tensors, config_of(classifier))
    with pytest.raises(UserError, match="blocks.1.attn.qkv.weight.*key"):
        load_torch_state_dict(tmp_path / "vit")


def test_sizes_are_those_of_the_tensors(full, classifier):
    sizes = sizes_of(full, "test")
    assert (sizes.parts, sizes.img_size, sizes.patch_size, sizes.depth) == ("full", 32, 8, 2)
    assert (sizes.decoder_embed_dim, sizes.decoder_depth) == (24, 2)
    assert {n: a.shape for n, a in full.items()} == shapes_of(sizes)
    sizes = sizes_of(classifier, "test")
    assert (sizes.parts, sizes.num_classes, sizes.global_pool) == ("classifier", 10, False)
    assert {n: a.shape for n, a in classifier.items()} == shapes_of(sizes)


@pytest.mark.parametrize("name", ["blocks.1.mlp.fc2.bias", "norm.weight", "decoder_pos_embed"])
def test_an_incomplete_model_names_the_tensor(full, name):
    with pytest.raises(UserError, match=f"{name} is missing"):
        sizes_of({n: a for n, a in full.items() if n != name}, "file.pth")
