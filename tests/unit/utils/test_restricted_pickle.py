"""Pickles that cost far more than they are long: refused at once. Where weights are read from them."""
import collections
import io
import os
import pickle
import resource
import struct
import subprocess
import sys
import zipfile

import numpy as np
import pytest

from projects.MAE.checkpoint.reader import read_part
from projects.MAE.errors import UserError
from projects.MAE.utils.restricted_pickle import read_pickle
from projects.MAE.weights.torch_file import read_torch_file
from tests.soak.fuzz_files import torch_pickle, zip_of_torch
from tests.soak.fuzz_pickles import text_of
from tests.support.command import ROOT

START = b"\x80\x02"
PRIME = 2**61 - 1  # Python's hash of a whole number is its remainder


def number(value):
    data = pickle.encode_long(value)
    return b"\x8a" + bytes([len(data)]) + data


def dict_of(keys):
    return b"}(" + b"".join(key + b"N" for key in keys) + b"u"


def calls(name, argument, count):
    """One call with one argument, many times."""
    module, name = name.rsplit(".", 1)
    start = b"c" + f"{module}\n{name}\n".encode() + b"q\0" + argument + b"\x85q\1"
    return start + b"](" + b"h\0h\1R" * count + b"e"


def decimal(digits):
    return b"9" * digits + b"\n"


def floats(count):
    return (b"G" + struct.pack(">d", float(2 ** (61 * (i % 15)) * (i // 15 + 1))) for i in range(count))


PAIRS = b"](" + b"".join(text_of(str(i)) + b"N\x86" for i in range(9000)) + b"e"
NAMESPACE = b"cargparse\nNamespace\nq\0)q\1" + dict_of(text_of(str(i)) for i in range(5000)) + b"q\2"
BOMBS = {
    "keys of one hash": dict_of(number(PRIME * (i + 1)) for i in range(20_000)),
    "keys of two signs": dict_of(number((-1) ** i * PRIME * (i + 1)) for i in range(20_000)),
    "floating-point keys of one hash": dict_of(floats(20_000)),
    "pairs of one hash": b"ccollections\nOrderedDict\n]("
    + b"".join(number(PRIME * (i + 1)) + b"N\x86" for i in range(20_000))
    + b"e\x85R",
    "keys that are no numbers": dict_of([b"G" + struct.pack(">d", float("nan"))] * 30_000),
    "key after key": b"}" + b"".join(number(PRIME * (i + 1)) + b"Ns" for i in range(20_000)),
    "places of one hash": b"N" + b"".join(f"p{PRIME * i}\n".encode() for i in range(50_000)),
    "a place far away": b"Nr\xff\xff\xff\xff",
    "a huge dictionary again and again": calls("collections.OrderedDict", PAIRS, 5000),
    "a namespace filled again and again": NAMESPACE + b"](" + b"h\0h\1Rh\2b" * 5000 + b"e",
    "empty containers": b"](" + b"]" * 2_000_000 + b"e",
    "empty dictionaries": b"](" + b"}" * 2_000_000 + b"e",
    "digits": b"L" + b"9" * 2_000_000 + b"L\n",
    "digits of a place": b"Ng" + decimal(2_000_000),
    "digits of a number": b"I" + decimal(2_000_000),
    "a number of megabytes": b"\x8b" + struct.pack("<I", 4_000_000) + b"\x7f" * 4_000_000,
    "a long text": text_of("x" * 20_000_000),
}
LONG = text_of("x" * 1_000_000)
STORAGE = b"(" + text_of("storage") + b"ctorch\nFloatStorage\n%sX\3\0\0\0cpu%stQ"
TORCH = {
    "a text as bytes": b"c_codecs\nencode\nq\0" + LONG + text_of("latin1") + b"\x86q\1](" + b"h\0h\1R" * 900 + b"e",
    "a long device": calls("torch.device", LONG, 900),
    "a device of many parts": LONG + b"q\0ctorch\ndevice\n(" + b"h\0" * 9000 + b"tR",
    "a long shape": calls("torch.Size", b"](" + b"N" * 200_000 + b"e", 900),
    "a long type": b"cnumpy\ndtype\n" + text_of(",".join(["f8"] * 90_000)) + b"\x85R",
    "a long key": LONG + b"q\0](" + STORAGE % (b"h\0", b"K\1") * 900 + b"e",
    "a long count": STORAGE % (text_of("0"), b"\x8b" + struct.pack("<I", 9**6) + b"\x7f" * 9**6),
}
LIBAI = {
    "a tensor of a long name": b"coneflow\nTensor\nq\0)q\1}" + text_of("path") + LONG + b"sq\2]("
    + b"h\0h\1Rh\2b" * 900 + b"e",
}  # fmt: skip


# Reads each path with 200 MB of memory above what the program itself takes, and the file's size.
PROGRAM = """
import os, resource, sys, time
from projects.MAE.checkpoint.reader import read_part
from projects.MAE.errors import UserError
from projects.MAE.weights.torch_file import read_torch_file
for path in sys.argv[1:]:
    read = read_torch_file if path.endswith(".pth") else read_part
    file = path if path.endswith(".pth") else path + "/pickled_data"
    used = int(open("/proc/self/statm").read().split()[0]) * resource.getpagesize()
    most = used + 200 * 10**6 + os.path.getsize(file)
    resource.setrlimit(resource.RLIMIT_AS, (most, resource.RLIM_INFINITY))
    start, outcome = time.process_time(), "read"
    try:
        read(path)
    except UserError as error:
        outcome = "refused" if len(str(error)) < 300 else f"a line of {len(str(error))} characters"
    except Exception as error:
        outcome = repr(error)
    resource.setrlimit(resource.RLIMIT_AS, (resource.RLIM_INFINITY,) * 2)
    seconds = time.process_time() - start
    print(path, outcome if seconds < 2 else f"{seconds} seconds", sep="=")
"""


def check_refused(paths):
    environment = dict(os.environ, PYTHONPATH=str(ROOT), LD_PRELOAD="")
    command = [sys.executable, "-c", PROGRAM, *map(str, paths)]
    out = subprocess.run(command, env=environment, stdout=subprocess.PIPE, text=True, cwd=ROOT).stdout
    assert out.splitlines() == [f"{path}=refused" for path in paths]


def test_bombs_in_torch_files(tmp_path):
    paths = []
    for kind, pickled in {**BOMBS, **TORCH}.items():
        paths.append(tmp_path / f"{kind}.pth")
        paths[-1].write_bytes(zip_of_torch(START + pickled + b".", {}))
    check_refused(paths)


def test_bombs_in_parts_of_checkpoints(tmp_path):
    paths, head = [], b"}(" + text_of("protocol_version") + b"K\1" + text_of("data")
    for kind, pickled in {**BOMBS, **LIBAI}.items():
        paths.append(tmp_path / kind)
        paths[-1].mkdir()
        (paths[-1] / "pickled_data").write_bytes(START + head + pickled + b"u.")
    check_refused(paths)


def test_a_directory_of_many_members(tmp_path):
    with zipfile.ZipFile(tmp_path / "w.pth", "w") as archive:
        archive.writestr("archive/data.pkl", START + b"}.")
        for i in range(50_000):
            archive.writestr(str(i), b"")
    with pytest.raises(UserError, match="a list of members of"):
        read_torch_file(tmp_path / "w.pth")


def test_parts_that_lie_in_one_another(tmp_path):
    """Each would become float32, so that a file of megabytes would fill the memory."""
    state = {str(i): np.zeros(1000, np.float16) for i in range(20)}
    data = torch_pickle(state).replace(b"FloatStorage", b"BFloat16Storage")
    archive = bytearray(zip_of_torch(data, {"0": state["0"]}))
    assert archive.count(b"PK\x01\x02") <= 4
    for i in range(1, 20):  # the directory names the first part's place again and again
        _list_again(archive, i)
    (tmp_path / "w.pth").write_bytes(archive)
    with pytest.raises(UserError, match="lie in one another"):
        read_torch_file(tmp_path / "w.pth")


def _list_again(archive, i):
    with zipfile.ZipFile(io.BytesIO(archive)) as found:
        info = next(m for m in found.infolist() if m.filename.endswith("data/0"))
        directory = found.start_dir
    end = archive.rfind(b"PK\x05\x06")
    at = archive.find(info.filename.encode(), directory) - 46
    name = info.filename[:-1] + str(i)
    size = struct.unpack("<HHH", archive[at + 28 : at + 34])
    entry = archive[at : at + 46] + name.encode() + archive[at + 46 + size[0] : at + 46 + sum(size)]
    entry[28:30] = struct.pack("<H", len(name))
    counts = struct.unpack("<HHI", archive[end + 8 : end + 16])
    new = struct.pack("<HHI", counts[0] + 1, counts[1] + 1, counts[2] + len(entry))
    archive[end + 8 : end + 16] = new
    archive[end:end] = entry


def test_thousands_of_tensors_with_their_optimizer_are_far_from_the_limits(tmp_path):
    """As many entries as four files of ViT-Huge; a process may have few files open at a time."""
    state = {f"blocks.{i // 12}.mlp.fc{i % 12}.weight": np.full(2, i, np.float32) for i in range(4000)}
    (tmp_path / "w.pth").write_bytes(zip_of_torch(torch_pickle(state), state))
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (256, hard))
    try:
        read = read_torch_file(tmp_path / "w.pth")["model"]
        assert all(np.array_equal(read[name], array) for name, array in state.items())
    finally:
        resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))


@pytest.mark.parametrize("protocol", [0, 1, 2, 3, 4])
def test_plain_values_are_what_they_were(protocol):
    value = {
        "names": [f"n{i}" for i in range(21_841)],
        "state": {i: {"step": i, "betas": (0.9, 0.999)} for i in range(3000)},
        "ordered": collections.OrderedDict(b=1, a=None),
        "numbers": [2**127, -(2**127), -1, 1.5, True],
        "text": "\U0001f600\n\\",
    }
    if protocol > 2:
        value["bytes"] = b"\0" * 300
    assert read_pickle(pickle.dumps(value, protocol), "w", {}) == value


def test_a_part_that_is_a_pipe_is_not_waited_for(tmp_path):
    os.mkfifo(tmp_path / "pickled_data")
    with pytest.raises(UserError, match="pickled_data: can't be read: not a regular file"):
        read_part(str(tmp_path))
