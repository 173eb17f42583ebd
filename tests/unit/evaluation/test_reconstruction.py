"""Reconstructions against the golden vectors, and the grid that shows them."""
import numpy as np
import oneflow as flow
import pytest
from PIL import Image

from projects.MAE.data.transforms import ToArray
from projects.MAE.evaluation import image_grid
from projects.MAE.evaluation.image_grid import draw_grid, drawable, save_png, shortened, wrapped
from projects.MAE.evaluation.reconstruction import (
    reconstruct,
    reconstruction_grid,
    to_images,
    to_patches,
    unnormalise,
)
from projects.MAE.modeling.losses import reconstruction_target
from tests.support.golden_models import tiny_mae, to_global


@pytest.fixture(scope="module")
def vectors(golden):
    found = golden("pretrain_tiny")
    return dict(found, images=found["images"][0], noise=found["noise"][0])


def by_hand(image, mask, patch, place, size=8):
    """A copy of an image [C, H, W] with the patches where mask is 1 replaced by patch(place)."""
    result = image.copy()
    for k in np.flatnonzero(mask):
        row, column = divmod(int(k), image.shape[2] // size)
        area = slice(row * size, (row + 1) * size), slice(column * size, (column + 1) * size)
        result[(slice(None), *area)] = patch(place, k, image[(slice(None), *area)])
    return result


def pixels_predicted(vectors):
    """What the authors' decoder predicts for patch k of image i, [C, 8, 8]."""

    def patch(i, k, original):
        return vectors["pred"][i, k].reshape(8, 8, 3).transpose(2, 0, 1)

    return patch


def unnormalised(vectors):
    def patch(i, k, original):
        values = original.astype(np.float64)
        predicted = pixels_predicted(vectors)(i, k, original)
        return predicted * np.sqrt(values.var(ddof=1) + 1e-6) + values.mean()

    return patch


@pytest.mark.parametrize("norm_pix, expected", [(False, pixels_predicted), (True, unnormalised)])
def test_the_golden_prediction(golden, vectors, norm_pix, expected):
    model = tiny_mae(golden("pretrain_tiny"), norm_pix)
    found = reconstruct(model, vectors["images"], vectors["noise"])
    patch = expected(vectors)
    loss = vectors["norm_pix/loss" if norm_pix else "raw_pix/loss"]
    np.testing.assert_allclose(found.losses.mean(), loss, rtol=1e-5)
    np.testing.assert_array_equal(found.original, vectors["images"])
    for i, (image, mask) in enumerate(zip(vectors["images"], vectors["mask"])):
        masked = by_hand(image, mask, lambda *_: 0, i)
        pasted = by_hand(image, mask, patch, i)
        whole = by_hand(image, np.ones_like(mask), patch, i)
        np.testing.assert_array_equal(found.masked[i], masked)
        np.testing.assert_allclose(found.pasted[i], pasted, rtol=0, atol=2e-5)
        np.testing.assert_allclose(found.reconstruction[i], whole, rtol=0, atol=2e-5)


def test_unnormalising_undoes_the_normalisation_of_targets(vectors):
    patches = to_patches(vectors["images"], 8)
    targets = reconstruction_target(to_global(patches), norm_pix_loss=True).numpy()
    np.testing.assert_allclose(unnormalise(targets, patches), patches, atol=1e-5)


def test_patches_are_those_of_the_model(golden, vectors):
    images = vectors["images"]
    model = tiny_mae(golden("pretrain_tiny"), False)
    patches = to_patches(images, 8)
    np.testing.assert_array_equal(patches, model.patchify(to_global(images)).numpy())
    np.testing.assert_array_equal(to_images(patches, images.shape), images)


@pytest.mark.parametrize("training", [True, False])
def test_the_model_is_left_as_it_was(golden, vectors, training):
    model = tiny_mae(golden("pretrain_tiny"), True).train(training)
    before = flow.get_rng_state().numpy().copy()
    reconstruct(model, vectors["images"], vectors["noise"])
    assert model.training is training and model.decoder_blocks[0].training is training
    assert all(p.grad is None for p in model.parameters())
    np.testing.assert_array_equal(flow.get_rng_state().numpy(), before)


def test_many_images_are_taken_in_parts(golden, vectors):
    model = tiny_mae(golden("pretrain_tiny"), True)
    some = [np.tile(vectors[key], (5, *[1] * (vectors[key].ndim - 1))) for key in ("images", "noise")]
    few, many = reconstruct(model, vectors["images"], vectors["noise"]), reconstruct(model, *some)
    assert len(many.losses) == 20
    for whole, part in zip(many, few):
        np.testing.assert_allclose(whole[16:], part, rtol=0, atol=1e-6)


def test_pixels_come_back():
    values = np.arange(256, dtype=np.uint8).reshape(16, 16)
    image = np.stack([values, values[::-1], values.T], axis=-1)
    for to_array in (ToArray(), ToArray(mean=(0.5, 0.5, 0.5), std=(0.5, 0.25, 0.1))):
        array = to_array(Image.fromarray(image))[None]
        np.testing.assert_array_equal(to_array.to_pixels(array)[0], image)
        assert to_array.to_pixels(array + 99).min() == 255 and to_array.to_pixels(array - 99).max() == 0


def tiles(count, side, seed=0):
    return np.random.default_rng(seed).integers(0, 256, (count, side, side, 3), dtype=np.uint8)


@pytest.mark.parametrize("side, shown", [(24, 96), (32, 96), (40, 120), (224, 224)])
def test_the_grid_shows_every_pixel(side, shown):
    rows = {"first": tiles(3, side), "second": tiles(3, side, seed=1)}
    grid = np.asarray(draw_grid(rows, ["a", "b", "c"], ["caption"], per_band=2))
    for row, images in enumerate(rows.values()):
        for sample, image in enumerate(images):
            band, column = divmod(sample, 2)
            large = np.kron(image, np.ones((shown // side, shown // side, 1), np.uint8))
            band_height = image_grid.LINE + 2 * (shown + image_grid.GAP) + image_grid.MARGIN
            top = image_grid.MARGIN + band * band_height + image_grid.LINE
            top += row * (shown + image_grid.GAP)
            left = left_of(grid, rows, shown) + column * (shown + image_grid.GAP)
            np.testing.assert_array_equal(grid[top : top + shown, left : left + shown], large)


def left_of(grid, rows, shown):
    """Where the images begin: at the first line of pixels that is dark or coloured all the way."""
    top = image_grid.MARGIN + image_grid.LINE
    area = grid[top : top + shown].astype(int)
    return int(np.argmax((area != 255).any(axis=2).mean(axis=0) > 0.9))


def test_labels_and_captions_fit():
    font = image_grid.ImageFont.load_default(image_grid.FONT_SIZE)
    name = "a/rather/long/path/to/n01440764_10026.JPEG"
    short = shortened(name, font, 96)
    start, end = short.split("...")
    assert name.startswith(start) and name.endswith(end) and font.getlength(short) <= 96
    assert shortened("7.png", font, 96) == "7.png"
    text = "words of a caption and /a/path/" + "x" * 200 + " to break"
    lines = wrapped(text, font, 300)
    assert max(map(font.getlength, lines)) <= 300
    assert "".join(lines).replace(" ", "") == text.replace(" ", "")


@pytest.mark.parametrize(
    "name, drawn",
    [
        ("n01440764_10026 (copy).JPEG", None),
        ("caf\u00e9.png", "caf\\xe9.png"),
        ("\u4e2d\u6587.png", "\\u4e2d\\u6587.png"),
        ("\u043a\u043e\u0442.png", "\\u043a\\u043e\\u0442.png"),
        ("\U0001f408.png", "\\U0001f408.png"),
        ("cafe\u0301\n.png", "cafe\\u0301\\n.png"),
        ("\udcff.png", "\\udcff.png"),  # a byte that is no text, as Python reads such names
    ],
)
def test_what_the_font_has_no_letters_for_is_written_out(name, drawn, tmp_path):
    font = image_grid.ImageFont.load_default(image_grid.FONT_SIZE)
    pieces = drawable(name, font)
    assert "".join(pieces) == (drawn or name)
    rows = {"row": tiles(1, 224)}
    grids = [draw_grid(rows, [label], [f"in {label}"]) for label in (name, drawn or name)]
    np.testing.assert_array_equal(*map(np.asarray, grids))
    save_png(grids[0], tmp_path / "grid.png")
    told = Image.open(tmp_path / "grid.png").text["Description"]
    whole = name.replace("\udcff", "\\udcff")
    assert told == f"in {whole}\nImages: {whole}."


def test_no_letter_is_cut_in_two_where_it_is_written_out():
    font = image_grid.ImageFont.load_default(image_grid.FONT_SIZE)
    pieces = drawable("\u4e2d\u6587\u56fe\u7247\u4e2d.png", font)
    assert shortened(pieces, font, 96) == "\\u4e2d...ng"
    assert shortened(drawable("\U0001f600", font), font, 60) == "\\U0001f600"
    assert shortened(pieces, font, 140) == "\\u4e2d\\u6587...png"


def test_nothing_is_drawn_at_the_rim():
    rows = {"a label for a row": tiles(1, 24)}
    grid = np.asarray(draw_grid(rows, ["long" * 99], ["caption " * 99, "y" * 999]))
    rim = [grid[:4], grid[-4:], grid[:, :4], grid[:, -4:]]
    assert all((part == 255).all() for part in rim)


@pytest.mark.parametrize("norm_pix", [True, False])
def test_the_caption(golden, vectors, norm_pix, tmp_path):
    model = tiny_mae(golden("pretrain_tiny"), norm_pix)
    found = reconstruct(model, vectors["images"], vectors["noise"])
    grid = reconstruction_grid(
        model, found, list("abcd"), ToArray().to_pixels, "weights.pth", 7, "its model card"
    )
    save_png(grid, tmp_path / "grid.png")
    assert [path.name for path in tmp_path.iterdir()] == ["grid.png"]
    lines = Image.open(tmp_path / "grid.png").text["Description"].splitlines()
    title, masked, targets, names = lines
    assert title == "weights.pth"
    assert masked.startswith("12 of 16 patches masked (75%), seed 7.")
    assert f"{found.losses.mean():.4f}" in masked
    assert f"norm_pix_loss={norm_pix}, known from its model card" in targets
    assert ("un-normalised here" in targets) is norm_pix
    assert names == "Images: a, b, c, d."
