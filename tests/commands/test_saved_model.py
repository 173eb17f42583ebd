"""Models built from saved weights, against the golden vectors, and who told what."""
import json

import numpy as np
import oneflow as flow
import pytest
from omegaconf import OmegaConf
from PIL import Image

from projects.MAE import convert_weights
from projects.MAE.data.preprocessing import both_preprocessings
from projects.MAE.errors import UserError
from projects.MAE.weights.saved_model import load_autoencoder, load_classifier, load_encoder_model
from tests.support.command import finetune
from tests.commands.weights import write_weights
from tests.support.golden_models import tiny_vit, to_global

FULL = dict(decoder_num_heads=4, norm_pix_loss=True)


def test_an_autoencoder(golden, tmp_path):
    saved = load_autoencoder(write_weights(golden, "full", tmp_path / "run", **FULL))
    vectors = golden("pretrain_tiny")
    images, noise = (to_global(vectors[key][0]) for key in ("images", "noise"))
    with flow.no_grad():
        outputs = saved.model(images, noise)
    np.testing.assert_allclose(outputs["losses"].numpy(), vectors["norm_pix/loss"], rtol=1e-5)
    assert saved.sizes.parts == "full" and saved.facts["norm_pix_loss"] is True
    assert saved.known_from["norm_pix_loss"] == "its model card"
    assert load_autoencoder(tmp_path / "run", mask_ratio=0.5).model.keep == 8


@pytest.mark.parametrize("kind, pool", [("mean", True), ("token", False)])
def test_a_classifier_and_its_encoder(golden, tmp_path, kind, pool):
    path = write_weights(golden, kind, tmp_path / "vit.safetensors")
    saved = load_classifier(path, num_heads=4)
    encoder = load_encoder_model(path, num_heads=4)
    vectors = golden("finetune_tiny")
    images = to_global(vectors["images"][0])
    prefix = "global_pool" if pool else "cls_token"
    with flow.no_grad():
        logits = saved.model(images)["prediction_scores"].numpy()
        features = encoder.model.forward_features(images).numpy()
        expected = tiny_vit(vectors, pool).eval().forward_features(images).numpy()
    np.testing.assert_allclose(logits, vectors[f"{prefix}/logits"], rtol=0, atol=1e-5)
    np.testing.assert_array_equal(features, expected)
    assert saved.known_from["num_heads"] == "--num-heads" and encoder.sizes.parts == "classifier"


@pytest.mark.parametrize("name", ["full.safetensors", "full"])
def test_an_encoder_beside_a_decoder_of_unknown_heads(golden, tmp_path, name):
    """Features need the encoder alone, and extract_features has no option for the decoder's heads."""
    path = write_weights(golden, "full", tmp_path / name)
    saved = load_encoder_model(path, num_heads=4)
    known = write_weights(golden, "full", tmp_path / "known", decoder_num_heads=4)
    expected = load_encoder_model(known)
    for key, tensor in saved.model.named_parameters():
        other = dict(expected.model.named_parameters())[key]
        np.testing.assert_array_equal(tensor.numpy(), other.numpy())
    with pytest.raises(UserError, match="give --decoder-num-heads"):
        load_autoencoder(path, num_heads=4)


def test_weights_of_another_kind(golden, tmp_path):
    encoder = write_weights(golden, "encoder", tmp_path / "encoder.safetensors")
    with pytest.raises(UserError, match="without a decoder.*mae_visualize"):
        load_autoencoder(encoder, num_heads=4)
    with pytest.raises(UserError, match="without a classifier.*mae_finetuned"):
        load_classifier(encoder, num_heads=4)
    with pytest.raises(UserError, match="--num-heads"):
        load_encoder_model(encoder)
    full = write_weights(golden, "full", tmp_path / "full.safetensors")
    with pytest.raises(UserError, match="--norm-pix-loss"):
        load_autoencoder(full, num_heads=4, decoder_num_heads=4)
    write_weights(golden, "full", tmp_path / "run", **FULL)
    with pytest.raises(UserError, match="--norm-pix-loss says False, but .* says True"):
        load_autoencoder(tmp_path / "run", norm_pix_loss=False)


def test_the_preprocessing_of_a_run(image_folder, tmp_path):
    finetune(image_folder, tmp_path / "run", "train.train_iter=1", "finetune.enable=False")
    moved = tmp_path / "moved.safetensors"
    assert convert_weights.main([str(tmp_path / "run"), str(moved), "--to", "timm"]) == 0
    card = tmp_path / "run" / "model_final" / "model" / "model_card.json"
    for path in (tmp_path / "run", moved):
        saved = load_classifier(path)
        assert (saved.preprocessing.resize, saved.preprocessing.crop) == (24, 24)
        assert saved.known_from["preprocessing"] == "its model card"
        assert saved.facts["classes"] == ["class0", "class1", "class2"]
    card.unlink()  # as a checkpoint of LiBai's own, or an old one
    saved = load_classifier(tmp_path / "run")
    assert (saved.preprocessing.resize, saved.preprocessing.crop) == (24, 24)
    assert saved.known_from["preprocessing"] == "its run's config.yaml"
    assert saved.known_from["num_heads"] == "its run's config.yaml"


def test_the_colours_of_a_folder_of_transformers(golden, tmp_path):
    source = write_weights(golden, "token", tmp_path / "vit.safetensors")
    command = [source, tmp_path / "out", "--to", "transformers", "--num-heads", 4]
    assert convert_weights.main(list(map(str, command))) == 0
    processor = json.loads((tmp_path / "out" / "preprocessor_config.json").read_text())
    processor.update(image_mean=[0.5, 0.5, 0.5], image_std=[0.25, 0.25, 0.25])
    (tmp_path / "out" / "preprocessor_config.json").write_text(json.dumps(processor))
    saved = load_classifier(tmp_path / "out")
    assert saved.preprocessing == (36, 32, (0.5, 0.5, 0.5), (0.25, 0.25, 0.25), "bicubic")
    image = Image.new("RGB", (50, 40), (255, 0, 0))
    assert saved.preprocessing.transform()(image)[:, 0, 0].tolist() == [2, -2, -2]


def test_a_part_of_the_preprocessing(golden, tmp_path, caplog):
    """The card of a run with transforms of its own has mean and std alone: predict takes the paper's
    for the rest and says so, and --eval-only takes the run's own transforms."""
    path = write_weights(golden, "mean", tmp_path / "vit.safetensors")
    told = dict(mean=[0.5] * 3, std=[0.5] * 3)
    (tmp_path / "vit.safetensors.json").write_text(json.dumps(dict(num_heads=4, preprocessing=told)))
    saved = load_classifier(path)
    assert saved.preprocessing == (36, 32, (0.5,) * 3, (0.5,) * 3, "bicubic")
    assert "the weights say mean, std alone, the rest as in the paper: resize 36" in caplog.text
    transform = dict(transforms=[dict(_target_="own.Transform")])
    cfg = dict(model=dict(img_size=32), dataloader=dict(test=[dict(dataset=dict(transform=transform))]))
    assert both_preprocessings(told, OmegaConf.create(cfg)) == (None, None)
    whole = dict(told, resize=36, crop=32)
    assert both_preprocessings(whole, OmegaConf.create(cfg)) == (saved.preprocessing, None)


def test_the_standard_preprocessing(golden, tmp_path, caplog):
    path = write_weights(golden, "mean", tmp_path / "vit.safetensors")
    saved = load_classifier(path, num_heads=4)
    assert (saved.preprocessing.resize, saved.preprocessing.crop) == (36, 32)
    assert saved.known_from["preprocessing"] == "the paper's, the weights don't say"
    said = "the weights don't say how images are prepared, so as in the paper: resize 36 bicubic, crop 32"
    assert f"{path}: {said}" in caplog.text
