"""Where the weights lie in strangers' files: prefixes, nesting, averaged ones; what is said of it."""
import json

import numpy as np
import pytest
from safetensors.numpy import save_file

from projects.MAE.errors import UserError
from projects.MAE.modeling.pos_embed import sincos_pos_embed_2d
from projects.MAE.modeling.sizes import Sizes, shapes_of
from projects.MAE.modeling.vit import VisionTransformer
from projects.MAE.settings.load import load_config
from projects.MAE.weights.files import read_weight_file, read_weight_file_told
from projects.MAE.weights.nesting import find_weights
from projects.MAE.weights.pretrained import load_pretrained, told_sizes
from projects.MAE.weights.sizes import is_moco, known_heads, sizes_of
from projects.MAE.weights.source import read_source
from projects.MAE.weights.torch_file import read_torch_file
from projects.MAE.weights.transformers_names import make_config, to_transformers
from projects.MAE.weights.write import write_libai
from tests.conftest import DATA
from tests.soak import fuzz_files
from tests.support.command import ROOT

FILES = DATA / "weights"
SMALL = Sizes("encoder", 16, 8, 3, 192, 12, 8, None, None, None, None, None)


def assert_same(first, second):
    assert set(first) == set(second)
    for name, array in first.items():
        np.testing.assert_array_equal(array, second[name])


def zeros(sizes):
    return {name: np.zeros(shape, np.float32) for name, shape in shapes_of(sizes).items()}


PREFIXES = ["module.", "_orig_mod.", "backbone.", "encoder.", "model.", "base_encoder.", "teacher."]


@pytest.mark.parametrize("prefix", [*PREFIXES, "module._orig_mod.", "student.backbone."])
def test_prefixes_are_stripped_and_named(classifier, tmp_path, caplog, prefix):
    file = tmp_path / "w.safetensors"
    save_file({f"{prefix}{name}": array for name, array in classifier.items()}, file)
    state, _ = read_weight_file(file)
    assert_same(state, classifier)
    (line,) = caplog.messages
    assert line.startswith(str(file)) and f"below {prefix[:-1]}" in line


def test_transformers_below_a_prefix(full, tmp_path):
    names = to_transformers(full, bare=False)
    save_file({f"model.{name}": a for name, a in names.items()}, tmp_path / "model.safetensors")
    config = make_config(sizes_of(full, "test"), {"num_heads": 4, "decoder_num_heads": 4})
    (tmp_path / "config.json").write_text(json.dumps(config))
    assert_same(read_weight_file(tmp_path)[0], full)


def test_a_prefix_that_nobody_knows(full, tmp_path):
    save_file({f"visual.{name}": array for name, array in full.items()}, tmp_path / "w.safetensors")
    with pytest.raises(UserError, match="known layout.*its tensors are visual"):
        read_weight_file(tmp_path / "w.safetensors")


def test_averaged_weights_are_taken_when_asked_for(caplog):
    saved = read_torch_file(FILES / "ema.pth")
    assert_same(read_weight_file(FILES / "ema.pth")[0], dict(saved["state_dict"]))
    (line,) = caplog.messages
    assert "state_dict_ema" in line and "--ema, in training finetune.ema=True, takes them" in line
    assert_same(read_weight_file_told(FILES / "ema.pth", ema=True)[0], saved["state_dict_ema"])
    assert "the weights below state_dict_ema are taken" in caplog.messages[-1]
    with pytest.raises(UserError, match="no averaged .EMA. weights: leave --ema or finetune.ema out"):
        read_weight_file_told(FILES / "linprobe.pth", ema=True)


@pytest.mark.parametrize("keys", [("ema", "shadow_params"), ("shadow_params",), ("model_ema",)])
def test_averaged_weights_without_names_are_mentioned(keys, full):
    """As torch-ema and diffusers save them: the parameters in their order."""
    averaged = [np.ones_like(array) for array in full.values()]
    for key in reversed(keys[1:]):
        averaged = {"decay": 0.999, key: averaged}
    saved = {"model": full, keys[0]: averaged, "epoch": 3}
    state, _, (line,) = find_weights(saved, False, "W")
    assert_same(state, full)
    label = ": ".join(keys)
    assert line == (
        f"W: averaged (EMA) weights are there, too ({label}), as a list without names: they are not "
        "read; save them under their names to have them"
    )
    with pytest.raises(UserError, match=f"W: its averaged .EMA. weights .{label}. are a list without"):
        find_weights(saved, True, "W")


def test_training_takes_averaged_weights_where_finetune_ema_is_set(tmp_path):
    saved = read_torch_file(FILES / "ema.pth")
    file = str(FILES / "ema.pth")
    sizes, _ = told_sizes(file, ema=True)
    state = saved["state_dict_ema"]
    width, depth = state["cls_token"].shape[-1], 1 + max(int(n.split(".")[1]) for n in state if "blocks." in n)
    model = VisionTransformer(**sizes, embed_dim=width, depth=depth, num_heads=4, num_classes=3)
    for ema, key in ((False, "state_dict"), (True, "state_dict_ema")):
        load_pretrained(model, file, ema=ema)
        assert_same({"cls_token": model.cls_token.numpy()}, {"cls_token": saved[key]["cls_token"]})
    cfg = load_config(str(ROOT / "projects/MAE/configs/mae_finetune.py"), ["finetune.ema=True"])
    assert cfg.finetune.ema is True
    write_libai(str(tmp_path / "libai"), {"cls_token": np.zeros((1, 1, 4), np.float32)}, {})
    with pytest.raises(UserError, match="a LiBai checkpoint has no averaged weights"):
        load_pretrained(model, str(tmp_path / "libai"), ema=True)


def below(prefix, state):
    return {f"{prefix}{name}": array for name, array in state.items()}


@pytest.mark.parametrize(
    "layout, raw_place, averaged_place",
    [
        (lambda r, a: {"model": r, "modelEMA": a}, "", "modelEMA"),
        (lambda r, a: {"model": r, "ModelEma": {"module": a}}, "", "ModelEma: module"),
        (lambda r, a: {"model": r, "swa_model": {"n_averaged": 1, **below("module.", a)}}, "",
         "swa_model: module"),
        (lambda r, a: {"model_state_dict": r, "averaged_model": a}, "", "averaged_model"),
        # Lightning: a callback of one's own, and its own averaging, which swaps the two.
        (lambda r, a: {"state_dict": below("net.", r),
                       "callbacks": {"EMACallback": {"ema_weights": below("net.", a)}}},
         "state_dict: net", "callbacks: EMACallback: ema_weights: net"),
        (lambda r, a: {"state_dict": below("net.", a), "current_model_state": below("net.", r),
                       "averaging_state": {"n_averaged": np.int64(3)}},
         "current_model_state: net", "state_dict: net"),
        # MoCo's and BYOL's.
        (lambda r, a: {"state_dict": {**below("module.encoder_q.", r), **below("module.encoder_k.", a)}},
         "state_dict: module.encoder_q", "state_dict: module.encoder_k"),
        (lambda r, a: {**below("online_encoder.", r), **below("target_encoder.", a)},
         "online_encoder", "target_encoder"),
    ],
)  # fmt: skip
def test_where_averaged_weights_lie(classifier, layout, raw_place, averaged_place):
    averaged = {name: array + 1 for name, array in classifier.items()}
    saved = layout(classifier, averaged)
    state, _, lines = find_weights(saved, False, "test")
    assert_same(state, classifier)
    assert f"there, too ({averaged_place}): --ema" in lines[-1]
    assert not raw_place or f"below {raw_place} are taken" in lines[0]
    state, _, lines = find_weights(saved, True, "test")
    assert_same(state, averaged)
    assert f"below {averaged_place} are taken" in lines[0]


def test_a_head_behind_what_has_no_tensors(classifier, tmp_path):
    """Dropout, or an activation: nothing tells."""
    names = {f"head.{kind}": f"head.1.{kind}" for kind in ("weight", "bias")}
    save_file({names.get(n, n): a for n, a in classifier.items()}, tmp_path / "w.safetensors")
    with pytest.raises(UserError, match="head.1.* has no place in a plain ViT"):
        read_weight_file(tmp_path / "w.safetensors")


def test_student_and_teacher(caplog):
    with pytest.raises(UserError, match="2 models .student: module.backbone, teacher: back.*--ema"):
        read_weight_file(FILES / "dino.pth")
    state = read_weight_file_told(FILES / "dino.pth", ema=True)[0]
    assert_same(state, read_torch_file(FILES / "ema.pth")["state_dict_ema"])
    assert "left out: head.mlp.0.weight" in caplog.text


def test_moco_pretraining(caplog):
    state = read_weight_file(FILES / "moco.pth")[0]
    assert_same(state, dict(read_torch_file(FILES / "ema.pth")["state_dict"]))
    assert "below state_dict: module.base_encoder" in caplog.messages[0]
    assert "momentum_encoder" in caplog.messages[1] and "--ema" in caplog.messages[1]
    state = read_weight_file_told(FILES / "moco.pth", ema=True)[0]
    assert_same(state, read_torch_file(FILES / "ema.pth")["state_dict_ema"])


@pytest.mark.parametrize(
    "layout",
    [
        lambda state: {p + n: a for p in ("backbone.", "encoder.") for n, a in state.items()},
        lambda state: {p + n: a for p in ("", "module.") for n, a in state.items()},
        lambda state: {"model": dict(state), "state_dict": dict(state)},
        lambda state: {"student": {"a": 1}, "model": {"net": dict(state), "backbone": dict(state)}},
    ],
)
def test_two_that_could_be_meant(full, layout):
    with pytest.raises(UserError, match="w.pth: it holds the weights of 2 models .*save one alone"):
        find_weights(layout(full), False, "w.pth")


def test_one_dictionary_under_two_names(full):
    assert_same(find_weights({"model": full, "state_dict": full}, False, "w.pth")[0], full)


def test_raw_and_averaged_weights_in_one_dictionary(full):
    both = {**full, **{f"ema.{name}": -array for name, array in full.items()}}
    assert_same(find_weights(both, False, "w.pth")[0], full)
    assert_same(find_weights(both, True, "w.pth")[0], {n: -a for n, a in full.items()})


def test_the_authors_linear_probe():
    state, facts = read_weight_file(FILES / "linprobe.pth")
    saved = read_torch_file(FILES / "linprobe.pth")["model"]
    sizes = sizes_of(state, "test")
    assert (sizes.parts, sizes.num_classes, sizes.global_pool) == ("probe", 3, False)
    assert facts["epoch"] == 89
    np.testing.assert_array_equal(state["head.weight"], saved["head.1.weight"])
    np.testing.assert_array_equal(state["feature_norm.running_var"], saved["head.0.running_var"])


def test_a_number_of_numpy_2(tmp_path):
    scalar = b"cnumpy._core.multiarray\nscalar\n(cnumpy\ndtype\n(X\x02\0\0\0f8K\0K\1tR"
    scalar += b"c_codecs\nencode\n(X\x09\0\0\0\0\0\0\0\0\0\xc3\xa0?X\6\0\0\0latin1tRtR"
    (tmp_path / "w.pth").write_bytes(
        fuzz_files.zip_of_torch(b"\x80\x02}X\4\0\0\0best" + scalar + b"s.", {})
    )
    assert read_torch_file(tmp_path / "w.pth") == {"best": 0.5}


def test_bfloat16_in_safetensors(full, tmp_path):
    header, data = {}, b""
    for name, array in full.items():
        bits = (np.ascontiguousarray(array).view(np.uint32) >> 16).astype("<u2").tobytes()
        kind, content = ("F32", array.tobytes()) if name == "norm.bias" else ("BF16", bits)
        offsets = [len(data), len(data) + len(content)]
        header[name] = dict(dtype=kind, shape=list(array.shape), data_offsets=offsets)
        data += content
    text = json.dumps(header).encode()
    (tmp_path / "w.safetensors").write_bytes(len(text).to_bytes(8, "little") + text + data)
    state, _ = read_weight_file(tmp_path / "w.safetensors")
    for name, array in full.items():
        cut = array if name == "norm.bias" else (array.view(np.uint32) >> 16 << 16).view(np.float32)
        np.testing.assert_array_equal(state[name], cut)


@pytest.mark.parametrize("saved", [True, False])
def test_transformers_5(full, tmp_path, saved):
    """As save_pretrained of version 5 writes ViTMAE, and as its state_dict() has the names."""
    new = {"attention.attention.": "attention.", "attention.output.dense": "attention.o_proj"}
    new.update({"intermediate.dense": "mlp.fc1", ".output.dense": ".mlp.fc2"})
    new["encoder.layer"] = "layers"
    new.update({f"attention.{p}.": f"attention.{p[0]}_proj." for p in ("query", "key", "value")})

    def renamed(name):
        if saved:
            return name.replace("decoder.decoder_layers", "decoder.decoder_encoder.layer")
        for old, now in new.items():
            name = name.replace(old, now)
        return name

    names = {renamed(n): a for n, a in to_transformers(full, bare=False).items()}
    wanted = "decoder.decoder_encoder.layer.0." if saved else "vit.layers.0.attention.q_proj."
    assert any(name.startswith(wanted) for name in names)
    save_file(names, tmp_path / "model.safetensors")
    config = make_config(sizes_of(full, "test"), {"num_heads": 4, "decoder_num_heads": 4})
    (tmp_path / "config.json").write_text(json.dumps(config))
    assert_same(read_weight_file(tmp_path)[0], full)


def test_assumed_heads_are_said(tmp_path, caplog):
    save_file(zeros(SMALL), tmp_path / "w.safetensors")
    assert read_source(tmp_path / "w.safetensors").facts["num_heads"] == 3
    (line,) = caplog.messages
    assert "num_heads=3 is assumed" in line and "--num-heads" in line
    assert read_source(tmp_path / "w.safetensors", num_heads=6).facts["num_heads"] == 6
    # A card knows, where names and positions only hint.
    (tmp_path / "w.safetensors.json").write_text('{"num_heads": 6}')
    found = read_source(tmp_path / "w.safetensors")
    assert (found.facts["num_heads"], found.known_from["num_heads"]) == (6, "its model card")
    assert len(caplog.messages) == 1


def test_heads_of_moco_v3(tmp_path):
    state = {f"blocks.{i}.norm1.weight": np.zeros(1) for i in range(12)}
    state["cls_token"] = np.zeros((1, 1, 384), np.float32)
    embedding = sincos_pos_embed_2d(384, 14)[None]
    assert not is_moco({**state, "pos_embed": embedding}, set(), None)  # the paper's
    rows_first = np.concatenate([embedding[..., 192:], embedding[..., :192]], axis=-1)
    assert is_moco({**state, "pos_embed": rows_first}, set(), None)
    assert is_moco(state, {"module", "base_encoder"}, None) and is_moco(state, set(), "vit_small")
    assert not is_moco(state, {"module"}, "vit_small_patch16_224")
    assert known_heads(state)["num_heads"] == 6
    sizes = SMALL._replace(embed_dim=384)
    names = {f"base_encoder.{name}": array for name, array in zeros(sizes).items()}
    save_file(names, tmp_path / "w.safetensors")
    assert read_source(tmp_path / "w.safetensors").facts["num_heads"] == 12
    assert read_source(tmp_path / "w.safetensors", num_heads=6).facts["num_heads"] == 6
    # A card knows, where names and positions only hint.
    (tmp_path / "w.safetensors.json").write_text('{"num_heads": 6}')
    found = read_source(tmp_path / "w.safetensors")
    assert (found.facts["num_heads"], found.known_from["num_heads"]) == (6, "its model card")


@pytest.mark.parametrize("channels", [1, 4])
def test_images_of_other_channels_are_refused(tmp_path, channels):
    save_file(zeros(SMALL._replace(in_chans=channels)), tmp_path / "w.safetensors")
    with pytest.raises(UserError, match=f"its images have {channels} channels, not RGB's 3"):
        read_source(tmp_path / "w.safetensors")
