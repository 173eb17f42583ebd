"""Features against timm's and transformers' ViT, where they are installed."""
import numpy as np
import pytest
from PIL import Image

from projects.MAE import convert_weights, load_encoder
from tests.commands.weights import write_weights

torch = pytest.importorskip("torch")
timm = pytest.importorskip("timm")
transformers = pytest.importorskip("transformers")
pytestmark = pytest.mark.oracle


@pytest.fixture
def images():
    """Three images of 36 pixels, which the standard preprocessing crops to 32."""
    pixels = np.random.default_rng(0).integers(0, 256, (3, 36, 36, 3), dtype=np.uint8)
    return [Image.fromarray(image) for image in pixels]


def prepared(encoder, images):
    return torch.from_numpy(np.stack([encoder.transform(image) for image in images]))


def test_timm(golden, images, tmp_path):
    path = write_weights(golden, "token", tmp_path / "vit.safetensors")
    encoder = load_encoder(path, num_heads=4)
    sizes = dict(img_size=32, patch_size=8, embed_dim=32, depth=3, num_heads=4, num_classes=10)
    theirs = timm.create_model("vit_base_patch16_224", **sizes, checkpoint_path=str(path)).eval()
    with torch.no_grad():
        expected = theirs.forward_features(prepared(encoder, images)).numpy()
        block = theirs.get_intermediate_layers(prepared(encoder, images), n=[1])[0].numpy()
    np.testing.assert_allclose(encoder(images, "all"), expected, rtol=0, atol=1e-4)
    np.testing.assert_allclose(encoder(images), expected[:, 0], rtol=0, atol=1e-4)
    np.testing.assert_allclose(encoder(images, "all", block=2)[:, 1:], block, rtol=0, atol=1e-4)


def test_transformers(golden, images, tmp_path):
    source = write_weights(golden, "token", tmp_path / "vit")
    target = tmp_path / "out"
    assert convert_weights.main([str(source), str(target), "--to", "transformers"]) == 0
    encoder = load_encoder(target)
    theirs = transformers.ViTModel.from_pretrained(target, add_pooling_layer=False).eval()
    with torch.no_grad():
        output = theirs(prepared(encoder, images), output_hidden_states=True)
    expected = output.last_hidden_state.numpy()
    np.testing.assert_allclose(encoder(images, "all"), expected, rtol=0, atol=1e-4)
    hidden = output.hidden_states[1].numpy()
    np.testing.assert_allclose(encoder(images, "all", block=1), hidden, rtol=0, atol=1e-4)
