"""Small files that a stranger may have made: opened where they are files, read as plain values."""
import os
import socket
import time

import pytest

from projects.MAE.errors import UserError
from projects.MAE.utils import untrusted_file
from projects.MAE.utils.untrusted_file import open_regular, parse_json, read_text, yaml_mapping


def test_a_text_and_its_limit(tmp_path):
    (tmp_path / "a").write_bytes(b"12\xff")
    assert read_text(tmp_path / "a", 3) == "12\ufffd"
    with pytest.raises(UserError, match="a: refused: it has more than 2 bytes"):
        read_text(tmp_path / "a", 2)
    with pytest.raises(UserError, match="more than 100 bytes"):
        read_text("/proc/self/smaps", 100)  # which says that it has none


@pytest.mark.parametrize("kind", ["pipe", "socket", "device", "folder", "terminal"])
def test_what_is_no_regular_file_is_not_opened(tmp_path, monkeypatch, kind):
    monkeypatch.chdir(tmp_path)
    if kind == "pipe":
        os.mkfifo("x")
    elif kind == "socket":
        with socket.socket(socket.AF_UNIX) as found:
            found.bind("x")
    elif kind == "folder":
        os.mkdir("x")
    else:
        os.symlink({"device": "/dev/zero", "terminal": "/dev/ptmx"}[kind], "x")
    before = len(os.listdir("/proc/self/fd"))
    with pytest.raises(OSError, match="not a regular file"):
        open_regular("x")
    assert len(os.listdir("/proc/self/fd")) == before


def test_links_out_of_a_folder(tmp_path):
    (tmp_path / "in").mkdir()
    (tmp_path / "in" / "own").write_text("own")
    (tmp_path / "in-other").write_text("other")
    for name, target in dict(near="own", far="../in-other", around="../in/own", gone="../x").items():
        (tmp_path / "in" / name).symlink_to(target)
    (tmp_path / "linked").symlink_to("in")
    for folder in (tmp_path / "in", tmp_path / "linked"):
        for name in ("own", "near", "around"):
            assert read_text(folder / name, 10, folder) == "own"
        for name in ("far", "gone"):
            with pytest.raises(UserError, match="leads out of"):
                read_text(folder / name, 10, folder)


@pytest.mark.parametrize("text", ["[" * 100_000, "", "{", '{"a": 1,}', "\x00"])
def test_no_json(text):
    with pytest.raises(ValueError):
        parse_json(text)


def test_numbers_of_many_digits():
    start = time.process_time()
    digits = "9" * 3_000_000
    assert parse_json(f"[{digits}, -{digits}, 12]") == [float("inf"), float("-inf"), 12]
    assert time.process_time() - start < 1


PLAIN = {
    "a: '[1]'": dict(a="[1]"),
    "a: 1\nb: [1.5, -2, 1e-3, .inf]\nc: {d: x, e: null, f: true, g: no}": dict(
        a=1, b=[1.5, -2, "1e-3", float("inf")], c=dict(d="x", e=None, f=True, g=False)
    ),
    "a: &x [1]\nb: *x": dict(a=[1], b=None),
    "a: !!python/name:os.system ''\nb: !!python/object/apply:os.system [x]": dict(a=None, b=None),
    "1: 2\nnull: 3\n? [a]\n: 4": {"1": 2, "null": 3},
    "<<: {a: 1}": {"<<": dict(a=1)},
    "a: 2001-99-99\nb: 1:30\nc: 0x1f\nd: 010": dict(a="2001-99-99", b="1:30", c=31, d=8),
    "a: !!int x\nb: !!float [1]\nc: !!binary x\nd: !!set {a}": dict(a="x", b=None, c=None, d=None),
    "a: !!int ''\nb: !!int '-'\nc: !!bool x\nd: !!map x\ne: !!seq x\nf: !!bool [x]": dict(
        a="", b="-", c="x", d={}, e=[], f=None
    ),
}


@pytest.mark.parametrize("text", PLAIN)
def test_yaml_as_plain_values(text):
    assert yaml_mapping(text) == PLAIN[text]


@pytest.mark.parametrize("text", ["", "[1]", "a: [", "a: " + "[" * 60 + "]" * 60, "a\x00b", "\x80: x: y", r'a: "\UFFFFFFFF"'])
def test_no_yaml(text):
    with pytest.raises(ValueError):
        yaml_mapping(text)


ALIASES = "a0: &a0 [x]\n" + "".join(f"a{i}: &a{i} [{f'*a{i - 1},' * 9}]\n" for i in range(1, 60))
SLOW = {
    "aliases": ALIASES,
    "keys of one hash": "".join(f"{(2**61 - 1) * i}: 1\n" for i in range(1, 2000)),
    "a number of base 60": "x: 1" + ":1" * 30_000,
    "digits": "x: " + "9" * 60_000,
    "a list": "x: [" + "1," * 30_000 + "]",
    "nested": "[" * 60_000,
    "keys": "? " * 30_000,
}


@pytest.mark.parametrize("kind", SLOW)
def test_the_slowest_yaml(kind):
    assert len(SLOW[kind]) <= untrusted_file.LARGEST_YAML
    start = time.process_time()
    try:
        yaml_mapping(SLOW[kind])
    except ValueError:
        pass
    assert time.process_time() - start < 5
