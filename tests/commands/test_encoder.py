"""Features from Python: what they are, what is taken as an image, and what importing costs."""
import subprocess
import sys

import numpy as np
import oneflow as flow
import pytest
from PIL import Image

from projects.MAE import load_encoder
from projects.MAE.errors import UserError
from tests.commands.weights import golden_state, write_weights
from tests.support.golden_models import tiny_mae, tiny_vit, to_global


@pytest.fixture
def encoder(golden, tmp_path):
    """Load the encoder of a golden model."""

    def load(kind, **options):
        path = write_weights(golden, kind, tmp_path / f"{kind}.safetensors")
        return load_encoder(path, num_heads=4, **options)

    return load


@pytest.fixture
def pixels():
    """Seven uint8 images of 40 x 48."""
    return np.random.default_rng(0).integers(0, 256, (7, 40, 48, 3), dtype=np.uint8)


def prepared(encoder, pixels):
    return np.stack([encoder.transform(Image.fromarray(image)) for image in pixels])


@pytest.mark.parametrize("kind, features", [("mean", "mean"), ("token", "class")])
def test_the_default_is_what_the_head_takes(golden, encoder, pixels, kind, features):
    encoder = encoder(kind, batch_size=3)
    assert encoder.default_features == features
    model = tiny_vit(golden("finetune_tiny"), kind == "mean").eval()
    with flow.no_grad():
        expected = model.forward_features(to_global(prepared(encoder, pixels))).numpy()
    result = encoder(pixels)
    assert result.dtype == np.float32 and result.shape == (7, 32)
    np.testing.assert_allclose(result, expected, rtol=0, atol=1e-5)


def test_an_image_of_pillow_is_its_file(encoder, pixels, tmp_path):
    exif = Image.Exif()
    exif[0x0112] = 6
    Image.fromarray(pixels[0]).save(tmp_path / "turned.jpg", exif=exif)
    Image.fromarray(pixels[0, :, :, 0].astype(np.uint16) << 4).save(tmp_path / "narrow.png")
    paths = [tmp_path / "turned.jpg", tmp_path / "narrow.png"]
    usual, narrow = encoder("encoder", exif="apply"), encoder("encoder", bits=12)
    with pytest.warns(UserWarning, match="if they hold 12 bits, set bits=12") as said:
        of_files = usual(paths)
        np.testing.assert_array_equal(usual([Image.open(path) for path in paths]), of_files)
    assert len(said) == 1
    with pytest.warns(UserWarning, match="weights don't say: .* exif='apply'") as said:
        narrow(paths)
        narrow(paths)
    assert len(said) == 1
    others = narrow(paths)
    np.testing.assert_array_equal(narrow([Image.open(path) for path in paths]), others)
    assert (np.abs(others - of_files).max(axis=1) > 1e-3).all()
    np.testing.assert_array_equal(others[1], usual([pixels[0, :, :, 0]])[0])


def test_features_of_a_pretrained_encoder(golden, encoder, pixels):
    encoder = encoder("encoder")
    model = tiny_mae(golden("pretrain_tiny"), True).eval()
    model.keep = model.num_patches  # nothing is masked, and the noise keeps the order
    noise = np.tile(np.linspace(0, 0.9, model.num_patches, dtype=np.float32), (7, 1))
    with flow.no_grad():
        images = to_global(prepared(encoder, pixels))
        expected = model.forward_encoder(images, to_global(noise))[0].numpy()
    tokens = encoder(pixels, features="all")
    assert tokens.shape == (7, 17, 32) and encoder.default_features == "class"
    np.testing.assert_allclose(tokens, expected, rtol=0, atol=1e-5)
    np.testing.assert_allclose(encoder(pixels), expected[:, 0], rtol=0, atol=1e-5)
    mean = encoder(pixels, features="mean")
    np.testing.assert_allclose(mean, expected[:, 1:].mean(axis=1), rtol=0, atol=1e-5)


def test_blocks(golden, encoder, pixels):
    """A block's output is what an encoder that ends there has before its norm."""
    one = encoder("encoder")(pixels, "all", block=1)
    model = tiny_mae(golden("pretrain_tiny"), True).eval()
    patches = model.patchify(to_global(prepared(encoder("encoder"), pixels)))
    state = golden_state(golden, "encoder")
    with flow.no_grad():
        x = model.patch_embed(patches).numpy() + state["pos_embed"][:, 1:]
        cls_token = np.tile(state["cls_token"] + state["pos_embed"][:, :1], (7, 1, 1))
        x = np.concatenate([cls_token, x], axis=1).astype(np.float32)
        expected = model.blocks[0](to_global(x)).numpy()
    np.testing.assert_allclose(one, expected, rtol=0, atol=1e-5)
    assert not np.allclose(one, encoder("encoder")(pixels, "all", block=2), atol=1e-2)


def test_kinds_of_images(encoder, pixels, tmp_path):
    encoder = encoder("mean")
    image = Image.fromarray(pixels[0])
    image.save(tmp_path / "a.png")
    same = [pixels[0], image, tmp_path / "a.png", str(tmp_path / "a.png"), image.convert("RGBA")]
    result = encoder(same)
    for row in result[1:]:
        np.testing.assert_array_equal(row, result[0])
    grey = encoder([pixels[0, :, :, 0]])
    np.testing.assert_array_equal(grey, encoder([Image.fromarray(pixels[0, :, :, 0])]))
    assert encoder([]).shape == (0, 32)


def test_what_is_no_image(encoder, pixels, tmp_path):
    encoder = encoder("mean")
    with pytest.raises(TypeError, match="in a list"):
        encoder(str(tmp_path / "a.png"))
    with pytest.raises(TypeError, match="float32"):
        encoder(pixels.astype(np.float32))
    with pytest.raises(UserError, match="cannot read the image .*a.png"):
        encoder([tmp_path / "a.png"])
    with pytest.raises(UserError, match="blocks 1 to 3"):
        encoder(pixels, block=4)
    with pytest.raises(UserError, match="choose class, mean, all"):
        encoder(pixels, features="cls")


def test_importing_the_package_loads_no_oneflow():
    code = "import sys, projects.MAE; assert not {'oneflow', 'numpy'} & set(sys.modules)"
    subprocess.run([sys.executable, "-c", code], check=True)
