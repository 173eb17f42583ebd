"""Starting models from weights: what is loaded, new, left and reshaped, and what is refused."""
import json

import numpy as np
import oneflow as flow
import pytest
from safetensors.numpy import save_file

from projects.MAE.errors import UserError
from projects.MAE.modeling.mae import MaskedAutoencoderViT
from projects.MAE.modeling.pos_embed import resize_pos_embed
from projects.MAE.modeling.vit import VisionTransformer
from projects.MAE.weights.libai_names import libai_to_torch, torch_to_libai
from projects.MAE.weights.pretrained import load_pretrained
from projects.MAE.weights.write import write_libai
from tests.conftest import DATA
from tests.support.golden_models import part, tiny_vit, to_global

FILES = DATA / "weights"


def classifier(**changes):
    sizes = dict(img_size=32, patch_size=8, embed_dim=32, depth=3, num_heads=4, num_classes=10)
    return VisionTransformer(**{**sizes, **changes})


def autoencoder(**changes):
    encoder = dict(img_size=32, patch_size=8, embed_dim=32, depth=2, num_heads=4)
    decoder = dict(decoder_embed_dim=24, decoder_depth=2, decoder_num_heads=4)
    return MaskedAutoencoderViT(**{**encoder, **decoder, **changes})


def weights_of(model):
    arrays = {name: p.numpy() for name, p in model.named_parameters()}
    return libai_to_torch(arrays, model.num_heads, getattr(model, "decoder_num_heads", None))


@pytest.fixture
def load(tmp_path):
    """Write weights in the authors' names in either style, and load them into a model."""

    def load(model, state, style="pytorch", ours=(), **card):
        if style == "pytorch":
            path = tmp_path / "weights.safetensors"
            save_file({n: np.ascontiguousarray(a) for n, a in state.items()}, path)
            (tmp_path / "weights.safetensors.json").write_text(json.dumps(card))
        else:
            path = tmp_path / "checkpoint"
            write_libai(str(path), torch_to_libai(state, 4, 4), card)
        return load_pretrained(model, str(path), style, ours)

    return load


STYLES = pytest.mark.parametrize("style", ["pytorch", "oneflow"])


@STYLES
def test_encoder_of_a_full_file_into_a_classifier(full, load, style):
    model = classifier(depth=2)
    before = weights_of(model)
    report = load(model, full, style)
    after = weights_of(model)
    assert report["new"] == ["fc_norm.weight", "fc_norm.bias", "head.weight", "head.bias"]
    assert {"norm.weight", "norm.bias", "mask_token", "decoder_pos_embed"} <= set(report["left"])
    assert report["reshaped"] == {}
    assert len(report["loaded"]) == len(after) - 4
    for name, array in after.items():
        expected = before if name.startswith(("fc_norm", "head")) else full
        np.testing.assert_array_equal(array, expected[name])


@STYLES
def test_finetuned_file_gives_the_same_logits(golden, finetuned, load, style):
    model = classifier()
    report = load(model, finetuned, style)
    assert report["new"] == report["left"] == []
    model.eval()
    images = to_global(golden("finetune_tiny")["images"][0])
    logits = model(images)["prediction_scores"].numpy()
    np.testing.assert_allclose(logits, golden("finetune_tiny")["global_pool/logits"], atol=1e-5)
    same = tiny_vit(golden("finetune_tiny"), True).eval()(images)["prediction_scores"].numpy()
    np.testing.assert_array_equal(logits, same)


@STYLES
def test_another_number_of_classes_has_a_new_head(finetuned, load, style):
    model = classifier(num_classes=4)
    report = load(model, finetuned, style)
    assert report["new"] == report["left"][::-1] == ["head.weight", "head.bias"]
    assert "fc_norm.weight" in report["loaded"]


@STYLES
def test_a_head_on_the_same_classes_in_another_order(finetuned, load, style):
    """Its outputs go where the data has the class; those without a name stay."""
    model, theirs, ours = classifier(), list("cab"), list("abc")
    assert load(model, finetuned, style, ours, classes=theirs)["new"] == []
    places = [1, 2, 0, *range(3, 10)]
    after = weights_of(model)
    np.testing.assert_array_equal(after["head.weight"], finetuned["head.weight"][places])
    np.testing.assert_array_equal(after["head.bias"], finetuned["head.bias"][places])
    np.testing.assert_array_equal(after["fc_norm.bias"], finetuned["fc_norm.bias"])


@STYLES
def test_a_head_on_other_classes_is_new(finetuned, load, style, caplog):
    model = classifier()
    before = weights_of(model)
    report = load(model, finetuned, style, list("abc"), classes=list("abd"))
    assert sorted(report["new"]) == ["head.bias", "head.weight"]
    np.testing.assert_array_equal(weights_of(model)["head.weight"], before["head.weight"])
    assert "was trained on classes of other names: the head is new" in caplog.text


@STYLES
def test_names_of_classes_compare_in_one_form_of_unicode(finetuned, load, style):
    """macOS keeps é as two characters, in folder names too."""
    theirs, ours = ["caf\u00e9", "the"], ["cafe\u0301", "the"]
    report = load(classifier(), finetuned, style, ours, classes=theirs)
    assert report["new"] == []


def test_heads_that_are_not_those_of_record(load, caplog):
    """predict would take 3 for them: a line says that the model has others."""
    sizes = dict(embed_dim=192, depth=12)
    load(classifier(**sizes, num_heads=3), weights_of(classifier(**sizes, num_heads=3)))
    assert "but a ViT of its width" not in caplog.text
    load(classifier(**sizes, num_heads=4), weights_of(classifier(**sizes, num_heads=4)))
    line = "model.num_heads=4 is assumed, but a ViT of its width and depth has 3: set model.num_heads=3"
    assert line in caplog.text


def test_images_of_other_channels_are_refused_in_their_words(full, load):
    name = "patch_embed.proj.weight"
    grey = {**full, name: full[name][:, :1]}
    parts = ["its images have 1 channels, model.in_chans=3", "set model.in_chans=1"]
    assert_refused(load, classifier(depth=2), grey, parts)


def test_a_head_behind_another_pooling_is_not_taken(golden, load):
    by_class_token = part(golden("finetune_tiny"), "cls_token/state/")
    report = load(classifier(global_pool=True), by_class_token)
    assert report["new"] == ["fc_norm.weight", "fc_norm.bias", "head.weight", "head.bias"]
    assert report["left"] == ["head.bias", "head.weight", "norm.bias", "norm.weight"]
    report = load(classifier(global_pool=False), by_class_token)
    assert report["new"] == report["left"] == []


@STYLES
def test_pretraining_goes_on_from_a_full_file(full, load, style):
    model = autoencoder()
    report = load(model, full, style)
    assert report["new"] == report["left"] == []
    after = weights_of(model)
    for name, array in full.items():
        np.testing.assert_array_equal(after[name], array)


def test_pretraining_goes_on_from_the_authors_training_file():
    sizes = dict(img_size=8, patch_size=4, embed_dim=8, depth=1, num_heads=2)
    model = autoencoder(**sizes, decoder_embed_dim=4, decoder_depth=1, decoder_num_heads=2)
    report = load_pretrained(model, str(FILES / "training_full.pth"), "pytorch")
    assert report["new"] == report["left"] == []


def test_bicubic_interpolation_is_pytorchs(golden):
    expected = golden("pos_embed_interpolation")
    result = resize_pos_embed(expected["src_4x4"], 6)
    assert result.dtype == np.float32
    np.testing.assert_allclose(result, expected["dst_6x6"], rtol=0, atol=1e-5)
    np.testing.assert_array_equal(result[:, 0], expected["src_4x4"][:, 0])


@STYLES
def test_another_image_size_interpolates_position_embeddings(full, load, style):
    model = classifier(depth=2, img_size=48)
    report = load(model, full, style)
    assert report["reshaped"] == {"pos_embed": ((1, 17, 32), (1, 37, 32))}
    expected = resize_pos_embed(full["pos_embed"], 6)
    np.testing.assert_array_equal(model.pos_embed.numpy(), expected)


def test_another_image_size_moves_the_decoder_too(full, load):
    report = load(autoencoder(img_size=24), full)
    assert set(report["reshaped"]) == {"pos_embed", "decoder_pos_embed"}


@pytest.mark.parametrize(
    "build, changes, parts",
    [
        (classifier, dict(depth=2, embed_dim=64), ["cls_token", "(1, 1, 32)", "(1, 1, 64)"]),
        (classifier, dict(depth=1), ["no tensor blocks.1.", "model.depth"]),
        (classifier, dict(depth=3), ["its encoder has 2 blocks", "model.depth=3: set model.depth=2"]),
        (classifier, dict(depth=2, patch_size=4), ["patch_embed.proj.weight", "(32, 3, 8, 8)"]),
        (autoencoder, dict(decoder_embed_dim=16), ["mask_token", "(1, 1, 24)", "(1, 1, 16)"]),
        (autoencoder, dict(decoder_depth=1), ["no tensor decoder_blocks.1."]),
    ],
)
def test_another_size_of_model(full, load, build, changes, parts):
    assert_refused(load, build(**changes), full, parts)


def assert_refused(load, model, state, parts, **options):
    before = weights_of(model)
    with pytest.raises(UserError) as caught:
        load(model, state, **options)
    message = str(caught.value)
    assert message.startswith("finetune.path=") and "\n" not in message
    for text in parts:
        assert text in message, message
    for name, array in weights_of(model).items():
        np.testing.assert_array_equal(array, before[name])  # nothing was loaded by halves


def test_an_encoder_alone_can_not_reconstruct(full, load):
    encoder = {n: a for n, a in full.items() if not n.startswith(("decoder_", "mask_token"))}
    assert_refused(load, autoencoder(), encoder, ["the decoder is missing", "*_full.pth"])


@STYLES
@pytest.mark.parametrize("value", [np.nan, np.inf])
def test_numbers_that_are_none(full, load, style, value):
    bad = {name: array.copy() for name, array in full.items()}
    bad["blocks.1.norm1.bias"][3] = value
    name = {"pytorch": "blocks.1.norm1.bias", "oneflow": "blocks.1.input_layernorm.bias"}[style]
    assert_refused(load, classifier(depth=2), bad, [name, "1 numbers that are NaN"], style=style)


def test_missing_tensors(full, load):
    less = {n: a for n, a in full.items() if n != "blocks.0.attn.qkv.bias"}
    assert_refused(load, classifier(depth=2), less, ["no tensor blocks.0.attn.qkv.bias"])


def test_another_number_of_heads_is_refused_where_it_is_written_down(full, load):
    parts = ["num_heads=4", "model.num_heads=8"]
    model = classifier(depth=2, num_heads=8)
    assert_refused(load, model, full, parts, style="oneflow", num_heads=4)


@pytest.mark.parametrize("name", ["cut.pth", "absent.pth", "legacy.pth", "malicious.pth"])
def test_unreadable_files_name_the_key(tmp_path, name):
    path = FILES / name
    if name == "cut.pth":
        path = tmp_path / name
        path.write_bytes((FILES / "training_full.pth").read_bytes()[:9000])
    with pytest.raises(UserError, match=f"^finetune.path={path}: "):
        load_pretrained(classifier(), str(path), "pytorch")


def test_a_truncated_checkpoint(full, load, tmp_path):
    load(classifier(depth=2), full, "oneflow")
    out = max((tmp_path / "checkpoint").glob("model/*/out"), key=lambda file: file.stat().st_size)
    out.write_bytes(out.read_bytes()[:-4])
    with pytest.raises(UserError, match="needs .* bytes"):
        load_pretrained(classifier(depth=2), str(tmp_path / "checkpoint"), "oneflow")


def test_a_checkpoint_is_not_taken_for_the_other_style(full, load, tmp_path):
    load(classifier(depth=2), full, "oneflow")
    with pytest.raises(UserError, match="finetune.weight_style=oneflow"):
        load_pretrained(classifier(depth=2), str(tmp_path / "checkpoint"), "pytorch")


def test_our_checkpoints_are_what_oneflow_loads(full, load, tmp_path):
    load(classifier(depth=2), full, "oneflow", norm_pix_loss=True)
    state = flow.load(str(tmp_path / "checkpoint" / "model"))
    np.testing.assert_array_equal(state["norm.weight"].numpy(), full["norm.weight"])
    card = json.loads((tmp_path / "checkpoint" / "model" / "model_card.json").read_text())
    assert card == {"norm_pix_loss": True}
