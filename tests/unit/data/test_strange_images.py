"""Images that are easily misread: turned by EXIF, of 12 bits, with white as zero; what is said of them."""
import io
import struct
from types import SimpleNamespace

import numpy as np
import pytest
from PIL import Image

from projects.MAE.data.build import build_image_test_loader
from projects.MAE.data.datasets import PretrainingDataset, prepared
from projects.MAE.data.deep_pixels import BadImage
from projects.MAE.data.image_file import Reading, read_image, to_rgb, told_reading
from projects.MAE.data.image_list import ImageList
from projects.MAE.data.preprocessing import standard_preprocessing
from projects.MAE.data.sampler import SampleKey
from projects.MAE.data.survey import reader_of
from projects.MAE.data.transforms import CenterCrop, Compose, Resize, ToArray
from projects.MAE.models import as_rgb
from tests.support.images import encode, pixels, png, write

GREY12 = pixels(channels=1, dtype=np.uint16) >> 4
GREY12[0, :2] = 0, 4095
COLOURS12 = pixels(dtype=np.uint16) >> 4


def tiff(order, bits, photometric, *strips, **more):
    """A TIFF of 16 x 12 pixels, made by hand: Pillow writes none of 12 bits, nor planes.

    Args:
        strips: bytes of each.
        more: {"tagNNN": value or values}.
    """
    starts = [400 + sum(map(len, strips[:i])) for i in range(len(strips))]
    tags = {256: 16, 257: 12, 258: bits, 259: 1, 262: photometric, 273: starts, 277: 1}
    tags.update({278: 12, 279: [len(strip) for strip in strips]})
    tags.update({int(name[3:]): value for name, value in more.items()})
    entries, beyond = b"", b""
    for tag, value in sorted(tags.items()):
        values = value if isinstance(value, (list, tuple)) else [value]
        packed_values = struct.pack(f"{order}{len(values)}I", *values)
        if len(values) > 1:
            place = 8 + 2 + 12 * len(tags) + 4 + len(beyond)
            beyond, packed_values = beyond + packed_values, struct.pack(order + "I", place)
        entries += struct.pack(order + "HHI", tag, 4, len(values)) + packed_values
    head = (b"II*\0" if order == "<" else b"MM\0*") + struct.pack(order + "IH", 8, len(tags))
    return (head + entries + bytes(4) + beyond).ljust(400, b"\0") + b"".join(strips)


def colours(order, values, in_planes=False, **more):
    """A TIFF of RGB, 16 bits each, uint16 [12, 16, 3]: in planes, or in two strips."""
    if in_planes:
        parts = [sixteen(order, values[..., i]) for i in range(3)]
        return tiff(order, [16] * 3, 2, *parts, tag277=3, tag284=2, **more)
    parts = [sixteen(order, values[i : i + 6]) for i in (0, 6)]
    return tiff(order, [16] * 3, 2, *parts, tag277=3, tag278=6, **more)


def packed(values):
    """12-bit values, two in three bytes, the high bits first, as TIFF has them in either byte order."""
    first, second = values.reshape(-1, 2).T.astype(np.uint32)
    triples = first << 12 | second
    return np.stack([triples >> 16, triples >> 8 & 255, triples & 255], axis=1).astype(np.uint8).tobytes()


def sixteen(order, values):
    return values.astype(order + "u2").tobytes()


DECLARED = {
    "12 bits": tiff("<", 12, 1, packed(GREY12)),
    "12 bits, big-endian": tiff(">", 12, 1, packed(GREY12)),
    "12 bits, white is zero": tiff("<", 12, 0, packed(4095 - GREY12)),
    "12 bits, white is zero, big-endian": tiff(">", 12, 0, packed(4095 - GREY12)),
    "16 bits": tiff("<", 16, 1, sixteen("<", GREY12 << 4)),
    "16 bits, white is zero": tiff("<", 16, 0, sixteen("<", 65535 - (GREY12 << 4))),
    "16 bits, white is zero, big-endian": tiff(">", 16, 0, sixteen(">", 65535 - (GREY12 << 4))),
}


@pytest.mark.parametrize("name", DECLARED)
def test_grey_scales_by_what_the_file_declares(tmp_path, name):
    path = write(tmp_path, "a.tif", DECLARED[name])
    expected = np.stack([GREY12 >> 4] * 3, axis=2)
    np.testing.assert_array_equal(np.asarray(read_image(path)), expected)
    if "12" in name:  # which no setting changes
        np.testing.assert_array_equal(np.asarray(read_image(path, Reading(bits=10))), expected)


NARROW = {
    "grey.png": encode(Image.fromarray(GREY12), "PNG"),
    "grey.tif": encode(Image.fromarray(GREY12), "TIFF"),
    "packed.tif": encode(Image.fromarray(GREY12), "TIFF", compression="tiff_lzw"),
    "white-is-zero.tif": tiff("<", 16, 0, sixteen("<", 4095 - GREY12)),
    "grey.pgm": encode(Image.fromarray(GREY12), "PPM"),
    "grey-and-alpha.png": png(16, 12, 16, 4, sixteen(">", np.dstack([GREY12, GREY12[::-1]]))),
    "colours.png": png(16, 12, 16, 2, sixteen(">", COLOURS12)),
    "colours-and-alpha.png": png(16, 12, 16, 6, sixteen(">", np.dstack([COLOURS12, GREY12]))),
    "colours.tif": colours("<", COLOURS12),
    "colours, big-endian.tif": colours(">", COLOURS12),
    "colours in planes.tif": colours("<", COLOURS12, in_planes=True),
    "colours in planes, big-endian.tif": colours(">", COLOURS12, in_planes=True),
}


@pytest.mark.parametrize("name", NARROW)
def test_12_bits_in_a_file_of_16_scale_by_the_setting(tmp_path, name):
    path = write(tmp_path, name, NARROW[name])
    expected = (COLOURS12 if "colours" in name else np.stack([GREY12] * 3, axis=2)) >> 4
    for found in (read_image(path, Reading(bits=12)), to_rgb(Image.open(path), Reading(bits=12))):
        np.testing.assert_array_equal(np.asarray(found), expected)
    with pytest.raises(BadImage, match="has a value of 4[0-9]+, more than data.bits=10 can hold"):
        read_image(path, Reading(bits=10))


def test_16_bits_in_planes_are_no_bytes(tmp_path):
    values = pixels(dtype=np.uint16)
    for order in "<>":
        path = write(tmp_path, "a.tif", colours(order, values, in_planes=True))
        np.testing.assert_array_equal(np.asarray(read_image(path)), values >> 8)
    decoded = Image.open(path)
    decoded.load()
    with pytest.raises(BadImage, match="in planes, which Pillow decodes wrongly: give the path"):
        to_rgb(decoded)


def bits_of(values, bits):
    """Values packed with the high bits first, as TIFF has them."""
    text = "".join(f"{value:0{bits}b}" for value in values.ravel().tolist())
    return int(text, 2).to_bytes(len(text) // 8, "big")


@pytest.mark.parametrize("bits", [10, 12, 14])
def test_packed_colours_that_pillow_can_not_unpack_are_refused(tmp_path, bits):
    values = pixels(dtype=np.uint16) >> (16 - bits)
    files = [tiff("<", [bits] * 3, 2, bits_of(values, bits), tag277=3)]
    files += [tiff("<", bits, 1, bits_of(values[..., 0], bits))] if bits != 12 else []
    for file in files:
        with pytest.raises(BadImage, match="known format and depth: save it as PNG of 8 or 16 bits"):
            read_image(write(tmp_path, "a.tif", file))


@pytest.mark.parametrize("bits", [10, 12, 14])
def test_jpeg_2000_scales_by_what_the_file_declares(tmp_path, bits):
    """Pillow writes 16 bits alone: the header is changed, and the offset that a decoder adds."""
    values = pixels(channels=1, dtype=np.uint16) >> (16 - bits)
    of_16 = values + np.uint16((1 << 15) - (1 << (bits - 1)))
    file = bytearray(encode(Image.fromarray(of_16), "JPEG2000"))
    file[file.find(b"ihdr") + 14] = file[file.find(b"\xff\x51") + 40] = bits - 1
    found = np.asarray(read_image(write(tmp_path, "a.jp2", bytes(file))))
    np.testing.assert_array_equal(found, np.stack([values >> (bits - 8)] * 3, axis=2))


def test_signed_numbers_of_8_bits_are_refused(tmp_path):
    path = write(tmp_path, "a.tif", tiff("<", 8, 1, pixels(channels=1).tobytes(), tag339=2))
    with pytest.raises(BadImage, match="no known range"):
        read_image(path)


@pytest.mark.parametrize("name", [name for name in NARROW if "colours" in name or "alpha" in name])
def test_what_pillow_has_cut_to_8_bits_is_not_taken_for_the_file(tmp_path, name):
    path = write(tmp_path, name, NARROW[name])
    image = Image.open(path)
    for _ in range(2):  # the first time doesn't decode it
        found = to_rgb(image, Reading(bits=12))
        np.testing.assert_array_equal(np.asarray(found), np.asarray(read_image(path, Reading(bits=12))))
    image.load()
    with pytest.raises(BadImage, match="give the path of its file"):
        to_rgb(image, Reading(bits=12))


def test_8_bits_beside_16_need_no_path(tmp_path):
    for kind in ("PNG", "TIFF"):
        image = Image.open(write(tmp_path, "a", encode(pixels(), kind)))
        image.load()
        np.testing.assert_array_equal(np.asarray(to_rgb(image, Reading(bits=12))), pixels())


def test_16_bits_are_as_if_nothing_was_set(tmp_path):
    for name in NARROW:
        path = write(tmp_path, name, NARROW[name])
        found = np.asarray(read_image(path, Reading(bits=16)))
        np.testing.assert_array_equal(found, np.asarray(read_image(path)))


def turned(kind, orientation):
    exif = Image.Exif()
    exif[0x0112] = orientation
    options = dict(lossless=True) if kind == "WEBP" else {}
    return encode(pixels(), kind, exif=exif, **options)


# How an image is shown, by its EXIF orientation (CIPA DC-008, 4.6.4).
SHOWN = {
    1: lambda x: x,
    2: lambda x: x[:, ::-1],
    3: lambda x: x[::-1, ::-1],
    4: lambda x: x[::-1],
    5: lambda x: x.transpose(1, 0, 2),
    6: lambda x: np.rot90(x, -1),
    7: lambda x: x[::-1, ::-1].transpose(1, 0, 2),
    8: lambda x: np.rot90(x),
}


@pytest.mark.parametrize("kind", ["JPEG", "PNG", "WEBP", "TIFF"])
@pytest.mark.parametrize("orientation", range(1, 9))
def test_exif_rotation_is_honoured_or_ignored(tmp_path, kind, orientation):
    path = write(tmp_path, "a", turned(kind, orientation))
    stored = np.asarray(read_image(write(tmp_path, "b", turned(kind, 1))))
    upright = SHOWN[orientation](stored)
    for found, expected in (
        (read_image(path), upright),
        (read_image(path, Reading("ignore")), stored),
        (to_rgb(Image.open(path)), upright),
        (to_rgb(Image.open(path), Reading("ignore")), stored),
    ):
        np.testing.assert_array_equal(np.asarray(found), expected)


@pytest.mark.parametrize("orientation", [None, *range(1, 9)])
def test_a_tiff_that_pillow_has_turned_can_be_had_as_stored(tmp_path, orientation):
    data = turned("TIFF", orientation) if orientation else encode(pixels(), "TIFF")
    path, ignore = write(tmp_path, "a.tif", data), Reading("ignore")
    decoded, nameless = Image.open(path), Image.open(io.BytesIO(data))
    for image in (decoded, nameless):
        image.load()
    expected = np.asarray(read_image(path, ignore))
    np.testing.assert_array_equal(np.asarray(to_rgb(decoded, ignore)), expected)
    if orientation in (None, 1):
        np.testing.assert_array_equal(np.asarray(to_rgb(nameless, ignore)), pixels())
        return
    with pytest.raises(BadImage, match="Pillow has turned it upright: give the path of its file"):
        to_rgb(nameless, ignore)
    np.testing.assert_array_equal(np.asarray(to_rgb(nameless)), np.asarray(read_image(path)))


ODD = {**DECLARED, **NARROW, **{f"turned {k}": turned(k, 6) for k in ("JPEG", "PNG", "TIFF")}}


@pytest.mark.parametrize("name", ODD)
def test_an_image_of_pillow_is_the_file_that_it_came_from(tmp_path, name):
    path = write(tmp_path, "a", ODD[name])
    fresh, loaded = Image.open(path), Image.open(path)
    loaded.load()
    for image in (fresh,) if "planes" in name else (fresh, loaded):  # Pillow decodes planes wrongly
        np.testing.assert_array_equal(np.asarray(as_rgb(image)), np.asarray(as_rgb(path)))


def loader_of(root, **options):
    transform = Compose([Resize(8), CenterCrop(8), ToArray()])
    data = PretrainingDataset(root, True, transform, 8, 4, **options)
    return build_image_test_loader(data, 4, num_workers=0)


def said(caplog, root, **options):
    caplog.clear()
    with caplog.at_level("INFO"):
        loader_of(root, **options)
    lines = [r.getMessage() for r in caplog.records]
    warnings = [r.getMessage() for r in caplog.records if r.levelname == "WARNING"]
    return [line for line in lines if " taken (" in line], warnings


def test_a_line_at_the_start_says_what_is_taken_and_left_out(tmp_path, caplog):
    for name in ("a/1.jpg", "a/2.JPG", "3.png"):
        write(tmp_path, name)
    for name in ("a/4.heic", "5.HEIC", "6.cr2", ".hidden.jpg", ".thumbs/7.jpg", "a/@eaDir/1.jpg/s.jpg", "x"):
        write(tmp_path, name, b"")
    write(tmp_path, "8.jpg", turned("JPEG", 6))
    write(tmp_path, "9.png", encode(np.dstack([pixels(), pixels(channels=1)]), "PNG"))
    (line,), warnings = said(caplog, tmp_path)
    assert not warnings and line == (
        f"{tmp_path}: 5 images taken (3 .jpg, 2 .png); left out: 2 .heic, 1 .cr2, 1 @eaDir/, 1 hidden "
        "files, 1 hidden folders, 1 without extension; with an EXIF rotation, turned upright "
        "(data.exif=ignore: not): 1; with transparency, which is dropped: 1"
    )
    (line,), _ = said(caplog, tmp_path, exif="ignore")
    assert "with an EXIF rotation, left as stored: 1" in line


@pytest.mark.parametrize("name", NARROW)
def test_one_warning_says_that_files_of_16_bits_hold_12(tmp_path, caplog, name):
    for i in range(3):
        write(tmp_path, f"{i}-{name}", NARROW[name])
        write(tmp_path, f"{i}-8-bits.png")
    (_,), (warning,) = said(caplog, tmp_path)
    shade = "white" if "white" in name else "black"
    assert warning.endswith(f"nearly {shade}: if they hold 12 bits, set data.bits=12")
    assert "above 4,095" in warning
    assert said(caplog, tmp_path, bits=12)[1] == []


def test_one_warning_says_that_some_files_of_16_bits_hold_12(tmp_path, caplog):
    wide = encode(Image.fromarray((GREY12 << 4) | 15), "PNG")
    for i in range(30):  # the first ones are not those that are odd
        write(tmp_path, f"{i:02}.png", NARROW["grey.png"] if i > 24 else wide)
    (_,), (warning,) = said(caplog, tmp_path)
    assert "of 16 files of 16 bits that were looked at hold no value above 4,095, others" in warning
    assert warning.endswith("keep them apart, with data.bits=12")
    for i in range(25, 30):
        write(tmp_path, f"{i:02}.png", wide)
    assert said(caplog, tmp_path)[1] == []


def test_classification_says_which_images_lie_beside_its_classes(tmp_path):
    from projects.MAE.data.image_folder import ImageFolder

    for name in ("train/a/1.png", "train/2.png"):
        write(tmp_path, name)
    assert ImageFolder(tmp_path).left_out == {"images beside the class folders": 1}


def test_a_list_of_images_takes_no_memory_in_a_worker(tmp_path):
    for name in ("a/1.png", "b/2.png", "3.png"):
        write(tmp_path, name)
    images = ImageList([tmp_path])
    assert images.labels.tolist() == [0, 1, -1]
    # Arrays are shared inside the index alone; an attribute of the list would be copied.
    assert not any(isinstance(value, np.ndarray) for value in vars(images).values())


def test_commands_read_images_as_the_weights_were_trained(tmp_path, capsys):
    for name in ("a.png", "b.png"):
        write(tmp_path, name, NARROW["grey.png"])
    write(tmp_path, "c.heic", b"")
    write(tmp_path, "d.jpg", turned("JPEG", 6))
    saved = SimpleNamespace(
        facts={}, preprocessing=standard_preprocessing(8), sizes=SimpleNamespace(img_size=8)
    )
    args = SimpleNamespace(on_error="raise", exif=None, bits=None)
    images = ImageList([tmp_path])
    assert reader_of(saved, images, args).reading == ("ignore", None)  # as their makers' libraries
    told, warning = capsys.readouterr().err.splitlines()
    kept = "left as stored, as the weights don't say (--exif apply: turned upright): 1"
    assert f"left out: 1 .heic; with an EXIF rotation, {kept}" in told
    assert warning.startswith("warning: ") and warning.endswith("if they hold 12 bits, set --bits 12")
    args.exif = "apply"
    assert reader_of(saved, images, args).reading == ("apply", None)
    told = capsys.readouterr().err
    assert "with an EXIF rotation, turned upright (--exif ignore: not): 1" in told
    args.exif = None
    saved.facts.update(exif="ignore", bits=12)
    assert reader_of(saved, images, args).reading == ("ignore", 12)
    assert "warning" not in capsys.readouterr().err
    args.exif, args.bits = "apply", 16
    assert reader_of(saved, images, args).reading == ("apply", 16)


def test_a_data_set_reads_its_files_as_weights_need_it(tmp_path):
    """evaluated_with takes a reading, too; the data set that it was asked of stays what it is."""
    turned = Image.Exif()
    turned[0x0112] = 6
    (tmp_path / "val").mkdir()
    Image.new("RGB", (8, 4)).save(tmp_path / "val" / "a.jpg", exif=turned)

    def size(image, rng):
        return image.size

    dataset = PretrainingDataset(tmp_path, False, size, 4, 2)
    other = prepared(dataset, size, Reading("ignore"))
    key = SampleKey(0, 0, True)
    assert (dataset[key]["images"], other[key]["images"]) == ((4, 8), (8, 4))
    assert told_reading({"exif": "apply", "bits": 16}, Reading()) == Reading()
    assert told_reading({"bits": 12}, Reading("ignore")) == Reading("ignore", 12)
