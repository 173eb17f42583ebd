"""Odd image files decode to the right pixels; bad ones are named, or skipped by a fixed rule."""
import errno
import os
import struct

import numpy as np
import pytest
from PIL import Image

from projects.MAE.data.build import build_image_test_loader, build_image_train_loader
from projects.MAE.data.datasets import (
    MOST_IN_A_ROW,
    ClassificationDataset,
    ConcatenatedDataset,
    PretrainingDataset,
)
from projects.MAE.data.deep_pixels import BadImage
from projects.MAE.data.image_file import MAX_PIXELS, read_image
from projects.MAE.data.sampler import SampleKey
from projects.MAE.data.transforms import CenterCrop, Compose, RandomResizedCrop, Resize, ToArray
from projects.MAE.errors import UserError
from tests.support.images import encode, pixels, png, write

RGB, GREY, GREY16 = pixels(), pixels(channels=1), pixels(channels=1, dtype=np.uint16)
RGB16 = pixels(dtype=np.uint16)
ALPHA = pixels(channels=1, seed=1)


def three(grey):
    return np.stack([grey] * 3, axis=2)


def big_endian(array):
    return array.astype(array.dtype.newbyteorder(">")).tobytes()


def rotated_by_exif():
    exif = Image.Exif()
    exif[0x0112] = 6  # shown turned by 90 degrees
    return encode(RGB, "PNG", exif=exif)


def animated(kind):
    first, second = Image.fromarray(RGB), Image.fromarray(pixels(seed=5))
    if kind == "GIF":
        first, second = (image.quantize(64) for image in (first, second))
    options = dict(lossless=True) if kind == "WEBP" else {}
    content = encode(first, kind, save_all=True, append_images=[second], duration=90, **options)
    return content, np.asarray(first.convert("RGB"))


def palette_with_transparency(transparency):
    indices = pixels(channels=1, seed=2) % 4
    colours = pixels(1, 4, seed=3)[0]
    chunks = (b"PLTE", colours.tobytes()), (b"tRNS", transparency)
    return png(16, 12, 8, 3, indices.tobytes(), *chunks), colours[indices]


def one_bit():
    bits = pixels(channels=1) > 127
    return encode(Image.fromarray(bits), "PNG"), three(bits * np.uint8(255))


def tiff16(order):
    """A 16-bit RGB TIFF, made by hand."""
    tags = [(256, 16), (257, 12), (258, 16), (259, 1), (262, 2), (273, 200), (277, 3), (278, 12)]
    tags.append((279, RGB16.nbytes))
    mark = b"II*\0" if order == "<" else b"MM\0*"
    entries = b"".join(
        # BitsPerSample has three values, which stand behind the entries.
        struct.pack(order + "HHII", tag, 3, 3, 150)
        if tag == 258
        else struct.pack(order + "HHII", tag, 4, 1, value)
        for tag, value in tags
    )
    head = mark + struct.pack(order + "IH", 8, len(tags)) + entries + bytes(4)
    bits = struct.pack(order + "HHH", 16, 16, 16)
    samples = RGB16.astype(order + "u2").tobytes()
    return head.ljust(150, b"\0") + bits.ljust(50, b"\0") + samples


GOOD = {
    "rgb.png": (encode(RGB, "PNG"), RGB),
    "png.jpg": (encode(RGB, "PNG"), RGB),  # misnamed
    "bmp.PNG": (encode(RGB, "BMP"), RGB),
    "rgb.tiff": (encode(RGB, "TIFF", compression="tiff_lzw"), RGB),
    "rgb.webp": (encode(RGB, "WEBP", lossless=True), RGB),
    "rgb.ppm": (encode(RGB, "PPM"), RGB),
    "grey.png": (encode(GREY, "PNG"), three(GREY)),
    "grey16.png": (encode(GREY16, "PNG"), three((GREY16 >> 8).astype(np.uint8))),
    "grey16.tif": (encode(GREY16, "TIFF"), three((GREY16 >> 8).astype(np.uint8))),
    "grey16-big.tif": (
        encode(Image.frombytes("I;16B", (16, 12), big_endian(GREY16)), "TIFF"),
        three((GREY16 >> 8).astype(np.uint8)),
    ),
    "grey16.pgm": (
        b"P5 16 12 65535\n" + big_endian(GREY16),
        three((GREY16 >> 8).astype(np.uint8)),
    ),
    "rgb16.png": (png(16, 12, 16, 2, big_endian(RGB16)), (RGB16 >> 8).astype(np.uint8)),
    "rgb16.tif": (tiff16("<"), (RGB16 >> 8).astype(np.uint8)),
    "rgb16-big.tif": (tiff16(">"), (RGB16 >> 8).astype(np.uint8)),
    "rgba.png": (encode(np.dstack([RGB, ALPHA]), "PNG"), RGB),  # transparency is dropped
    "la.png": (png(16, 12, 8, 4, np.dstack([GREY, ALPHA]).tobytes()), three(GREY)),
    "rgb-one-transparent.png": (
        png(16, 12, 8, 2, RGB.tobytes(), (b"tRNS", struct.pack(">HHH", *RGB[0, 0]))),
        RGB,
    ),
    "palette.png": palette_with_transparency(b"\0\x80\xff"),
    "palette-one.png": palette_with_transparency(b"\xff\0"),
    "1-bit.png": one_bit(),
    "exif.png": (rotated_by_exif(), np.rot90(RGB, -1)),
    "exif-damaged.png": (encode(RGB, "PNG", exif=b"Exif\0\0MM\0*\0\0"), RGB),
    "animated.gif": animated("GIF"),
    "animated.webp": animated("WEBP"),
    "animated.apng": animated("PNG"),
    "pages.tif": animated("TIFF"),
    "1-pixel.png": (encode(RGB[:1, :1], "PNG"), RGB[:1, :1]),
    "long.png": (encode(pixels(20_000, 3), "PNG"), pixels(20_000, 3)),
}


@pytest.mark.parametrize("name", GOOD)
def test_odd_images_have_the_right_pixels(tmp_path, name):
    content, expected = GOOD[name]
    image = read_image(write(tmp_path, name, content))
    assert image.mode == "RGB"
    np.testing.assert_array_equal(np.asarray(image), expected)


def test_cmyk(tmp_path):
    cmyk = pixels(channels=4)
    path = write(tmp_path, "a.tif", encode(Image.fromarray(cmyk, "CMYK"), "TIFF"))
    ink, black = cmyk[:, :, :3] / 255, cmyk[:, :, 3:] / 255
    expected = 255 * (1 - ink) * (1 - black)
    assert np.abs(np.asarray(read_image(path)) - expected).max() <= 1
    flat = Image.new("CMYK", (16, 16), (0, 255, 200, 10))  # JPEG files hold the inverse
    found = np.asarray(read_image(write(tmp_path, "a.jpg", encode(flat, "JPEG", quality=100))))
    assert np.abs(found - np.array([245, 0, 53])).max() <= 3


def bomb():
    return png(20_000, 20_000, 8, 0, bytes(20_000))


BAD = {
    "empty.jpg": (b"", "the file is empty"),
    "text.jpg": (b"not an image at all, but text\n" * 9, "not an image of a known format"),
    "truncated.jpg": (encode(RGB, "JPEG")[:500], "truncated"),
    "truncated.png": (encode(RGB, "PNG")[:300], "truncated"),
    "header-only.png": (encode(RGB, "PNG")[:33], ""),
    "bomb.png": (bomb(), "more than 178,956,970 pixels"),
    "float.tif": (encode(np.ones((4, 4), np.float32), "TIFF"), "no known range"),
    "int32.tif": (encode(np.ones((4, 4), np.int32), "TIFF"), "no known range"),
    # Pillow would start Ghostscript.
    "postscript.jpg": (b"%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 9 9\n%%EndComments\n", "known"),
    "name.png": (b"\x89PNG\r\n\x1a\n" + bytes(60), ""),
}


@pytest.mark.parametrize("name", BAD)
def test_bad_files_are_named_with_the_reason(tmp_path, name):
    content, reason = BAD[name]
    write(tmp_path, f"train/a/{name}", content)
    data = pretraining(tmp_path)
    with pytest.raises(UserError) as error:
        data[SampleKey(0, 0, True)]
    for part in (f"a/{name}: ", reason, "remove the file", "data.on_error=skip"):
        assert part in str(error.value)
    assert "\n" not in str(error.value)


def test_what_is_no_file_is_refused_at_once(tmp_path):
    os.mkfifo(tmp_path / "pipe.jpg")
    (tmp_path / "device.jpg").symlink_to("/dev/zero")
    (tmp_path / "nowhere.jpg").symlink_to("nothing")
    for name, reason in (("pipe", "not a file"), ("device", "not a file"), ("nowhere", "no such")):
        with pytest.raises(BadImage, match=reason):
            read_image(tmp_path / f"{name}.jpg")


KINDS = ("JPEG", "PNG", "GIF", "BMP", "WEBP", "TIFF", "PPM", "JPEG2000")


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.filterwarnings("ignore::UserWarning:PIL")
def test_a_file_cut_anywhere_is_an_error_or_whole(tmp_path, kind):
    content = encode(pixels(40, 50), kind)
    whole = np.asarray(read_image(write(tmp_path, "whole", content)))
    refused = 0
    for end in np.linspace(0, len(content) - 1, 60).astype(int):
        try:
            found = np.asarray(read_image(write(tmp_path, "cut", content[:end])))
        except BadImage:
            refused += 1
        else:  # only what follows the pixels is missing
            np.testing.assert_array_equal(found, whole, f"{end} of {len(content)} bytes")
    assert refused > 50


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.filterwarnings("ignore::UserWarning:PIL")
def test_damaged_bytes_never_raise_anything_else(tmp_path, kind):
    rng = np.random.default_rng(0)
    content = encode(pixels(20, 20), kind)
    for _ in range(60):
        damaged = np.frombuffer(content, np.uint8).copy()
        places = rng.integers(0, len(damaged), 3)
        damaged[places] = rng.integers(0, 256, 3)
        try:
            assert read_image(write(tmp_path, "damaged", damaged.tobytes())).mode == "RGB"
        except BadImage as error:
            assert str(error)


def test_the_largest_image_is_allowed_by_pillow_too():
    assert MAX_PIXELS == 2 * Image.MAX_IMAGE_PIXELS


@pytest.mark.parametrize("size", [(1, 1), (20_000, 1), (1, 20_000), (2, 3)])
def test_every_size_goes_through_the_transforms(size):
    image, rng = Image.new("RGB", size, (255, 0, 0)), np.random.default_rng(0)
    chains = [Compose([Resize(224, 0.875), CenterCrop(224)]), RandomResizedCrop(224, (0.2, 1.0))]
    for chain in chains:
        found = np.asarray(chain(image, rng))
        assert found.shape == (224, 224, 3) and (found == (255, 0, 0)).all()


def test_the_middle_of_a_long_image_is_the_same():
    image = Image.fromarray(pixels(8, 320))
    found = CenterCrop(28)(Resize(28, 0.875)(image))
    expected = CenterCrop(28)(image.resize((32 * 40, 32), Image.BICUBIC))
    np.testing.assert_array_equal(np.asarray(found), np.asarray(expected))


# Skipping


def chain():
    return Compose([RandomResizedCrop(8), ToArray()])


def pretraining(root, on_error="raise", train=True, transform=None):
    transform = transform or chain()
    return PretrainingDataset(root, train, transform, 8, 4, seed=1, on_error=on_error)


@pytest.fixture
def damaged(tmp_path):
    """16 images in two classes to train and 6 to validate, and the places of those that are bad."""
    for split, count in (("train", 8), ("val", 3)):
        for name in "ab":
            for i in range(count):
                write(tmp_path, f"{split}/{name}/{i}.png")
    for name in ("train/a/3.png", "train/a/4.png", "train/b/7.png", "val/a/0.png", "val/b/1.png"):
        (tmp_path / name).write_bytes(b"")
    return tmp_path, [3, 4, 15], [0, 4]


def test_the_next_readable_one_takes_its_place(damaged):
    root, bad, _ = damaged
    data = ClassificationDataset(root, True, chain(), seed=1, on_error="skip")
    # The one after the last is the first, with its label.
    for index, other in ((3, 5), (4, 5), (15, 0), (5, 5)):
        key = SampleKey(2, index, True)
        sample, image = data[key], data.images.load(other)
        assert sample["labels"] == data.images.label(other)
        rng = data._generator(key, 0)
        np.testing.assert_array_equal(sample["images"], data.transform(image, rng))
        assert sample.get("skipped") == ((index, "the file is empty") if index in bad else None)


def batches(loader):
    return [{k: v.tensor.numpy() for k, v in b.get_fields().items()} for b in loader]


def load(root, workers, start=0):
    data = pretraining(root, "skip")
    loader = build_image_train_loader(data, 4, start, 8, num_workers=workers, seed=1)
    return batches(loader), loader.skipped.indices


def test_skipping_depends_on_nothing_else(damaged):
    root, bad, _ = damaged
    expected, skipped = load(root, workers=0)
    assert skipped == set(bad)
    for found in (load(root, 2)[0], expected[:3] + load(root, 1, start=3)[0]):
        assert len(found) == len(expected)
        for ours, theirs in zip(found, expected):
            assert set(ours) == set(theirs) == {"images", "noise"}
            for field in theirs:
                np.testing.assert_array_equal(ours[field], theirs[field])


def test_the_log_names_the_first_and_counts_the_others(tmp_path, caplog):
    for i in range(20):
        write(tmp_path, f"train/a/{i:02d}.png", b"" if i < 9 else None)
    with caplog.at_level("WARNING"):
        _, skipped = load(tmp_path, workers=0)
    lines = [r.getMessage() for r in caplog.records if "Skipped" in r.getMessage()]
    assert skipped == set(range(9)) and len(lines) == 6
    assert all("train/a/0" in line and "the file is empty" in line for line in lines[:5])
    assert "only counted" in lines[5]


@pytest.mark.parametrize("workers", [0, 1])
def test_evaluation_leaves_them_out(damaged, workers):
    root, _, bad = damaged
    transform = Compose([Resize(8), CenterCrop(8), ToArray()])
    data = ClassificationDataset(root, False, transform, on_error="skip")
    loader = build_image_test_loader(data, 4, num_workers=workers)
    found = batches(loader)
    valid, labels = (np.concatenate([b[name] for b in found]) for name in ("valid", "labels"))
    np.testing.assert_array_equal(valid, [0, 1, 1, 1, 0, 1, 0, 0])
    np.testing.assert_array_equal(labels, [-1, 0, 0, 1, -1, 1, -1, -1])
    assert loader.skipped.indices == set(bad)


def test_places_in_several_data_sets(damaged):
    root, _, _ = damaged
    whole = ConcatenatedDataset([pretraining(root, "skip"), pretraining(root, "skip")])
    sample = whole[SampleKey(0, 16 + 3, True)]
    assert sample["skipped"][0] == 19 and whole.path(19) == str(root / "train/a/3.png")
    assert whole.on_error == "skip"


def test_a_folder_without_a_readable_image_ends_the_run(tmp_path):
    for i in range(MOST_IN_A_ROW + 20):
        write(tmp_path, f"train/a/{i:03d}.png", b"")
    with pytest.raises(UserError, match="100 images in a row .*a/007.png: the file is empty"):
        pretraining(tmp_path, "skip")[SampleKey(0, 7, True)]


def test_on_error_is_checked_at_once(tmp_path):
    with pytest.raises(UserError, match="data.on_error=ignore must be raise or skip"):
        pretraining(tmp_path / "nowhere", "ignore")


def test_an_image_that_is_out_of_reach_is_not_skipped_as_a_bad_one(tmp_path, monkeypatch):
    path = tmp_path / "a.png"
    path.write_bytes(encode(RGB, "PNG"))

    def refuse(*_, **__):
        raise OSError(errno.EMFILE, "Too many open files", str(path))

    monkeypatch.setattr("projects.MAE.data.image_file.open", refuse, raising=False)
    with pytest.raises(UserError, match="too many open files"):
        read_image(path)
