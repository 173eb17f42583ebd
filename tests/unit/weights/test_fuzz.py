"""Broken and hostile weight files: read right or refused in one line, and nothing else happens."""
import os
import pickle
import subprocess
import sys

import numpy as np
import pytest

from projects.MAE.checkpoint.reader import read_card, read_weights
from projects.MAE.errors import UserError, report
from projects.MAE.weights.files import read_weight_file
from projects.MAE.weights.sizes import sizes_of
from tests.soak import fuzz_files
from tests.support.command import ROOT
from tests.soak.fuzz_pickles import text_of


@pytest.fixture(scope="module")
def seeds():
    return fuzz_files.Seeds()


def test_some_hundred_cases_of_the_fuzzer():
    result = subprocess.run(
        [sys.executable, ROOT / "tests/soak/fuzz_weights.py", "--cases", "700", "--workers", "1"],
        env=dict(os.environ, LD_PRELOAD=""),
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        timeout=600,
    )
    assert result.returncode == 0 and "700 cases, 0 failures" in result.stdout, result.stdout


def test_the_fuzzer_sees_what_a_reader_must_not_do(tmp_path):
    """Its watch is no decoration: a reader that ran pickles would be caught."""
    code = (
        "import os, pickle; from tests.soak import fuzz_weights as f; watch = f.Watch()\n"
        f"watch.folder = {str(tmp_path)!r}\n"
        "class Hostile:\n    def __reduce__(self): return os.system, ('true',)\n"
        "data = pickle.dumps(Hostile())\n"
        "try: pickle.loads(data)\n"
        "except f.Forbidden as error: print('caught', error)\n"
        "watch.folder = " + repr(str(tmp_path)) + "\n"
        "try: open('/etc/hostname')\n"
        "except f.Forbidden as error: print('caught', error)\n"
    )
    command = [sys.executable, "-c", code]
    out = subprocess.run(command, cwd=ROOT, stdout=subprocess.PIPE, text=True, check=True).stdout
    assert out.count("caught") == 2 and "pickle.find_class" in out and "/etc/hostname" in out


def write_torch(tmp_path, data_pkl, state):
    file = tmp_path / "w.pth"
    file.write_bytes(fuzz_files.zip_of_torch(data_pkl, state))
    return file


PAIRS = b"\x80\x02)q\0" + b"h\0h\0\x86q\0" * 60  # 2**60 values, in 400 bytes


@pytest.mark.parametrize(
    "end",
    [
        b"}h\0Ns.",  # as a key: hashing it takes for ever
        b"}X\x05\0\0\0modelh\0s.",
        b"h\0h\0\x93.",
        b"ctorch\ndevice\nh\0R.",
        b"(X\x07\0\0\0storagectorch\nFloatStorage\nh\0X\3\0\0\0cpuK\1tQ.",
        b"ccollections\nOrderedDict\n]h\0N\x86a\x85R.",
    ],
)
def test_pairs_of_pairs(tmp_path, end):
    with pytest.raises(UserError):
        read_weight_file(write_torch(tmp_path, PAIRS + end, {}))


@pytest.mark.parametrize("data", [b"]" * 500 + b"a" * 499 + b".", b"]q\0h\0a."])
def test_nested_too_deep_and_in_itself(tmp_path, data):
    with pytest.raises(UserError, match="nested too deep"):
        read_weight_file(write_torch(tmp_path, b"\x80\x02" + data, {}))


def test_one_storage_behind_many_tensors(tmp_path):
    """Each copy is float16 that becomes float32, so a file of megabytes would fill the memory."""
    state = {f"n{i}": np.zeros(1000, np.float16) for i in range(50)}
    data = fuzz_files.torch_pickle(state).replace(b"FloatStorage", b"HalfStorage")
    keys = [text_of(str(i)) for i in range(50)]
    for key in keys[1:]:
        at = data.index(b"HalfStorage\n" + key)
        data = data[:at] + b"HalfStorage\n" + keys[0] + data[at + len(b"HalfStorage\n" + key) :]
    with pytest.raises(UserError, match="share 1000 numbers too often"):
        read_weight_file(write_torch(tmp_path, data, {"n0": state["n0"]}))


def test_a_block_of_a_huge_number(seeds):
    """It was counted up to: the blocks below it are what is missing."""
    state = {**seeds.state, "blocks.99999999999.norm1.bias": np.zeros(8, np.float32)}
    with pytest.raises(UserError, match="blocks.1.norm1.weight is missing"):
        sizes_of(state, "w.pth")


CARDS = [b"[" * 100_000, b"[1]", b'{"num_heads": "4"}', b'{"classes": {"a": 1}}', b"\xff"]


@pytest.mark.parametrize("card", CARDS)
def test_damaged_cards(tmp_path, seeds, card):
    fuzz_files.write(seeds.files["card"], tmp_path)
    (tmp_path / "w.safetensors.json").write_bytes(card)
    with pytest.raises(UserError, match="w.safetensors.json"):
        read_weight_file(tmp_path / "w.safetensors")
    fuzz_files.write(seeds.files["libai"], tmp_path)
    checkpoint = tmp_path / "w/model_0000001"
    (checkpoint / "model/model_card.json").write_bytes(card)
    with pytest.raises(UserError, match="model_card.json: damaged"):
        read_card(str(checkpoint))


def test_one_folder_behind_many_tensors(tmp_path, seeds):
    fuzz_files.write(seeds.files["libai"], tmp_path)
    data = tmp_path / "w/model_0000001/model/pickled_data"
    path = text_of("path")
    data.write_bytes(
        data.read_bytes().replace(path + text_of("norm.bias"), path + text_of("norm.weight"))
    )
    with pytest.raises(UserError, match="stands for several tensors"):
        read_weights(str(tmp_path / "w/model_0000001"))


def test_a_number_for_a_name(tmp_path, seeds):
    fuzz_files.write(seeds.files["libai"], tmp_path)
    folder = tmp_path / "w/model_0000001"
    pairs = {"protocol_version": 1, "data": {10**50: None}}
    (folder / "model/pickled_data").write_bytes(pickle.dumps(pairs, 2))
    with pytest.raises(UserError, match="a int stands for a name"):
        read_weights(str(folder))


def test_a_name_that_would_speak_to_the_terminal(capsys):
    report(UserError("w.pth: the tensor \x1b[2Jname\nerror: " + "x" * 10_000))
    said = capsys.readouterr().err
    assert "\x1b" not in said and said.count("\n") == 1 and len(said) < 2100
