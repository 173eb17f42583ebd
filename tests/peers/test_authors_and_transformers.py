"""Live comparison with PyTorch, timm and transformers, where they are installed."""
import argparse

import numpy as np
import pytest

from projects.MAE.convert_weights import main
from projects.MAE.modeling.mae import MaskedAutoencoderViT
from projects.MAE.modeling.pos_embed import resize_pos_embed
from projects.MAE.modeling.vit import VisionTransformer
from projects.MAE.weights.libai_names import torch_to_libai
from projects.MAE.weights.pretrained import load_pretrained
from projects.MAE.weights.torch_file import read_torch_file
from projects.MAE.weights.write import write_libai
from tests.support.golden_models import part, tiny_mae, tiny_vit, to_global

torch = pytest.importorskip("torch")
timm = pytest.importorskip("timm")
transformers = pytest.importorskip("transformers")
pytestmark = pytest.mark.oracle


def disturb(model):
    """Move every parameter off its initial value, so that zero biases hide nothing."""
    generator = torch.Generator().manual_seed(0)
    with torch.no_grad():
        for parameter in model.parameters():
            if parameter.requires_grad:
                parameter.add_(0.02 * torch.randn(parameter.shape, generator=generator))
    return model.eval()


def images_and_noise(size, length, count=2):
    rng = np.random.default_rng(0)
    images = rng.standard_normal((count, 3, size, size), dtype=np.float32)
    return images, rng.random((count, length), dtype=np.float32)


def their_loss(model, images, noise):
    with torch.no_grad():
        return float(model(torch.from_numpy(images), noise=torch.from_numpy(noise)).loss)


def their_logits(model, images):
    with torch.no_grad():
        output = model(torch.from_numpy(images))
    return (output if isinstance(output, torch.Tensor) else output.logits).numpy()


def our_loss(model, images, noise):
    return float(model.eval()(to_global(images), to_global(noise))["losses"].numpy())


def our_logits(model, images):
    return model.eval()(to_global(images))["prediction_scores"].numpy()


@pytest.mark.parametrize("norm_pix_loss", [True, False])
def test_vit_base_against_transformers(tmp_path, norm_pix_loss):
    config = transformers.ViTMAEConfig(layer_norm_eps=1e-6, norm_pix_loss=norm_pix_loss)
    theirs = disturb(transformers.ViTMAEForPreTraining(config))
    theirs.save_pretrained(tmp_path)
    ours = MaskedAutoencoderViT(norm_pix_loss=norm_pix_loss)
    report = load_pretrained(ours, str(tmp_path), "pytorch")
    assert report["new"] == report["left"] == [] and not report["reshaped"]
    images, noise = images_and_noise(224, 196)
    expected = their_loss(theirs, images, noise)
    np.testing.assert_allclose(our_loss(ours, images, noise), expected, rtol=1e-5)


def test_vit_base_against_timm(tmp_path):
    theirs = disturb(timm.create_model("vit_base_patch16_224", global_pool="avg"))
    torch.save(theirs.state_dict(), tmp_path / "timm.pth")
    ours = VisionTransformer(global_pool=True)
    report = load_pretrained(ours, str(tmp_path / "timm.pth"), "pytorch")
    assert report["new"] == report["left"] == []
    images, _ = images_and_noise(224, 196)
    expected = their_logits(theirs, images)
    assert np.abs(expected).max() > 0.1
    np.testing.assert_allclose(our_logits(ours, images), expected, rtol=0, atol=1e-4)


@pytest.fixture
def libai(golden, tmp_path):
    """Write a golden model as a LiBai checkpoint; returns its path."""

    def write(file, prefix, **card):
        state = part(golden(file), prefix)
        path = tmp_path / "libai"
        write_libai(str(path), torch_to_libai(state, 4, 4), dict(num_heads=4, **card))
        return path

    return write


def convert(*arguments):
    assert main([str(a) for a in arguments]) == 0


def test_transformers_loads_a_converted_autoencoder(golden, libai, tmp_path):
    source = libai("pretrain_tiny", "state/", decoder_num_heads=4, norm_pix_loss=True)
    convert(source, tmp_path / "out", "--to", "transformers")
    theirs, report = transformers.ViTMAEForPreTraining.from_pretrained(
        tmp_path / "out", output_loading_info=True
    )
    assert not any(report.values()), report
    pretrain = golden("pretrain_tiny")
    images, noise = pretrain["images"][0], pretrain["noise"][0]
    expected = our_loss(tiny_mae(pretrain, True), images, noise)
    np.testing.assert_allclose(their_loss(theirs.eval(), images, noise), expected, rtol=1e-5)

    convert(tmp_path / "out", tmp_path / "mae.pth", "--to", "mae")
    model = torch.load(tmp_path / "mae.pth")["model"]
    for name, array in part(pretrain, "state/").items():
        np.testing.assert_array_equal(model[name].numpy(), array)


def test_transformers_loads_a_converted_classifier(golden, libai, tmp_path):
    classes = [f"class {i}" for i in range(10)]
    source = libai("finetune_tiny", "cls_token/state/", classes=classes)
    convert(source, tmp_path / "out", "--to", "transformers")
    theirs, report = transformers.ViTForImageClassification.from_pretrained(
        tmp_path / "out", output_loading_info=True
    )
    assert not any(report.values()), report
    assert theirs.config.id2label[3] == "class 3"
    finetune = golden("finetune_tiny")
    images = finetune["images"][0]
    expected = our_logits(tiny_vit(finetune, False), images)
    np.testing.assert_allclose(their_logits(theirs.eval(), images), expected, rtol=0, atol=1e-4)


def test_transformers_loads_a_converted_encoder(golden, libai, tmp_path):
    source = libai("pretrain_tiny", "state/", decoder_num_heads=4, norm_pix_loss=True)
    convert(source, tmp_path / "vit.safetensors", "--to", "timm")
    convert(tmp_path / "vit.safetensors", tmp_path / "out", "--to", "transformers")
    theirs, report = transformers.ViTMAEModel.from_pretrained(
        tmp_path / "out", output_loading_info=True
    )
    assert not any(report.values()), report
    pretrain = golden("pretrain_tiny")
    with torch.no_grad():
        images, noise = (torch.from_numpy(pretrain[key][0]) for key in ("images", "noise"))
        latent = theirs.eval()(images, noise=noise).last_hidden_state.numpy()
    np.testing.assert_allclose(latent, pretrain["latent"], rtol=0, atol=1e-5)


@pytest.mark.parametrize("ending", ["pth", "safetensors"])
@pytest.mark.parametrize("pool, prefix", [("avg", "global_pool"), ("token", "cls_token")])
def test_timm_loads_a_converted_classifier(golden, libai, tmp_path, ending, pool, prefix):
    target = tmp_path / f"vit.{ending}"
    convert(libai("finetune_tiny", f"{prefix}/state/"), target, "--to", "timm")
    sizes = dict(img_size=32, patch_size=8, embed_dim=32, depth=3, num_heads=4, num_classes=10)
    if ending == "pth":
        theirs = timm.models.VisionTransformer(**sizes, global_pool=pool)
        theirs.load_state_dict(torch.load(target)["model"])
    else:
        theirs = timm.create_model(
            "vit_base_patch16_224", **sizes, global_pool=pool, checkpoint_path=str(target)
        )
    finetune = golden("finetune_tiny")
    images = finetune["images"][0]
    expected = our_logits(tiny_vit(finetune, pool == "avg"), images)
    np.testing.assert_allclose(their_logits(theirs.eval(), images), expected, rtol=0, atol=1e-4)


def test_the_reader_agrees_with_pytorch(tmp_path):
    generator = torch.Generator().manual_seed(0)
    base = torch.randn(6, 8, 10, generator=generator)
    saved = {
        "views": [base.permute(2, 0, 1), base[1:5:2, ::3], base.half(), base[0]],
        "args": argparse.Namespace(lr=0.1, betas=(0.9, 0.95), resume=None),
        "count": np.float64(0.25),
    }
    torch.save(saved, tmp_path / "saved.pth")
    read = read_torch_file(tmp_path / "saved.pth")
    for ours, theirs in zip(read["views"], saved["views"]):
        np.testing.assert_array_equal(ours, theirs.numpy())
    assert read["args"] == saved["args"] and read["count"] == 0.25


@pytest.mark.parametrize("old, new", [(14, 7), (14, 24), (5, 5), (3, 16)])
def test_interpolation_is_pytorchs(old, new):
    rng = np.random.default_rng(0)
    pos_embed = rng.standard_normal((1, 1 + old**2, 12), dtype=np.float32)
    grid = torch.from_numpy(pos_embed[:, 1:]).reshape(1, old, old, 12).permute(0, 3, 1, 2)
    resized = torch.nn.functional.interpolate(
        grid, size=(new, new), mode="bicubic", align_corners=False
    )
    expected = resized.permute(0, 2, 3, 1).reshape(1, new**2, 12).numpy()
    result = resize_pos_embed(pos_embed, new)
    np.testing.assert_allclose(result[:, 1:], expected, rtol=0, atol=1e-5)
    np.testing.assert_array_equal(result[:, 0], pos_embed[:, 0])
