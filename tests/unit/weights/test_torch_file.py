"""The reader of torch files: real files of PyTorch 1.13 (tests/golden/weights), and hostile ones."""
import pickle
import struct
import zipfile

import numpy as np
import pytest

from projects.MAE.checkpoint.reader import read_weights
from projects.MAE.errors import UserError
from projects.MAE.weights.torch_file import read_torch_file
from tests.conftest import DATA

FILES = DATA / "weights"
COUNTING = np.arange(24, dtype=np.float32).reshape(4, 6)


class Evil:
    """What a hostile pickle holds: reading it carelessly creates a file."""

    def __reduce__(self):
        return open, ("MALICIOUS_CODE_RAN", "w")


def test_every_kind_of_tensor():
    kinds = read_torch_file(FILES / "kinds.pth")
    for name in "float64 float32 float16 int64 int32 int16 int8 uint8".split():
        assert kinds[name].dtype == name
        np.testing.assert_array_equal(kinds[name], [0, 1, 2, 3])
    assert kinds["bfloat16"].dtype == np.float32
    np.testing.assert_array_equal(kinds["bfloat16"], [0, 1, 2, 3])
    np.testing.assert_array_equal(kinds["bool"], [False, True, True, True])
    np.testing.assert_array_equal(kinds["transposed"], COUNTING.T)
    np.testing.assert_array_equal(kinds["part"], COUNTING[1:3, 2:5])
    np.testing.assert_array_equal(kinds["parameter"], [1, 1])
    assert kinds["scalar"].shape == () and kinds["scalar"] == 1.5
    assert kinds["empty"].shape == (0, 3)
    assert kinds["others"][1:] == [(1, 2), "cpu", ("text", None, 7)]


def test_training_file_keeps_its_plain_values():
    training = read_torch_file(FILES / "training_full.pth")
    assert training["epoch"] == 799
    assert training["args"].norm_pix_loss is True and training["args"].data_path == "/data"
    assert training["optimizer"]["param_groups"][0]["betas"] == (0.9, 0.95)
    assert training["optimizer"]["state"][0]["exp_avg"].shape == (3, 2)
    assert training["model"]["blocks.0.attn.qkv.weight"].shape == (24, 8)


def test_a_malicious_file_runs_nothing(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    with pytest.raises(UserError, match="refused: it holds posix.system"):
        read_torch_file(FILES / "malicious.pth")
    assert list(tmp_path.iterdir()) == []


def test_a_malicious_checkpoint_runs_nothing(tmp_path, monkeypatch):
    part = tmp_path / "checkpoint" / "model"
    part.mkdir(parents=True)
    (part / "pickled_data").write_bytes(pickle.dumps({"protocol_version": 1, "data": Evil()}))
    monkeypatch.chdir(tmp_path)
    with pytest.raises(UserError, match="refused: it holds io.open"):
        read_weights(tmp_path / "checkpoint")
    assert not (tmp_path / "MALICIOUS_CODE_RAN").exists()


def test_a_checkpoint_reads_nothing_outside_itself(tmp_path):
    part = tmp_path / "checkpoint" / "model"
    part.mkdir(parents=True)
    tensor = b"\x8c\x07oneflow\x8c\x06Tensor\x93)\x81}\x8c\x04path\x8c\x06../../sb"
    data = b"\x80\x04}(\x8c\x10protocol_versionK\x01\x8c\x04data}\x8c\x01w" + tensor + b"su."
    (part / "pickled_data").write_bytes(data)
    with pytest.raises(UserError, match="outside the folder"):
        read_weights(tmp_path / "checkpoint")


@pytest.mark.parametrize(
    "name, message",
    [("legacy.pth", "before version 1.6"), ("whole_module.pth", "torch.nn.modules.linear.Linear")],
)
def test_unreadable_kinds_of_file(name, message):
    with pytest.raises(UserError, match=message):
        read_torch_file(FILES / name)


@pytest.mark.parametrize("content", [b"", b"PK", b"<!doctype html><html>", bytes(100)])
def test_no_torch_file(tmp_path, content):
    (tmp_path / "weights.pth").write_bytes(content)
    with pytest.raises(UserError, match="not a PyTorch file"):
        read_torch_file(tmp_path / "weights.pth")


@pytest.mark.parametrize("share", [0.01, 0.3, 0.9, 0.999])
def test_truncated_file(tmp_path, share):
    whole = (FILES / "training_full.pth").read_bytes()
    (tmp_path / "cut.pth").write_bytes(whole[: int(len(whole) * share)])
    with pytest.raises(UserError, match="truncated"):
        read_torch_file(tmp_path / "cut.pth")


def test_compressed_file(tmp_path):
    with zipfile.ZipFile(FILES / "kinds.pth") as source:
        with zipfile.ZipFile(tmp_path / "small.pth", "w", zipfile.ZIP_DEFLATED) as target:
            for name in source.namelist():
                target.writestr(name, source.read(name))
    with pytest.raises(UserError, match="compressed"):
        read_torch_file(tmp_path / "small.pth")


def write_tensor(path, size, stride, offset=0, count=6, stored=6):
    """A torch file of one float32 tensor whose description may lie; its storage is 0, 1, 2, ..."""
    numbers = ["(" + "".join(f"I{n}\n" for n in numbers) + "t" for numbers in (size, stride)]
    storage = f"(Vstorage\nctorch\nFloatStorage\nV0\nVcpu\nI{count}\ntQ"
    tensor = f"ctorch._utils\n_rebuild_tensor_v2\n({storage}I{offset}\n{''.join(numbers)}tR."
    with zipfile.ZipFile(path, "w") as archive:
        archive.writestr("archive/data.pkl", tensor)
        archive.writestr("archive/data/0", struct.pack(f"<{stored}f", *range(stored)))


def test_hand_written_tensor(tmp_path):
    write_tensor(tmp_path / "w.pth", size=(2, 2), stride=(1, 2), offset=2)
    np.testing.assert_array_equal(read_torch_file(tmp_path / "w.pth"), [[2, 4], [3, 5]])


@pytest.mark.parametrize(
    "lie",
    [
        dict(size=(7,), stride=(1,)),
        dict(size=(2, 2), stride=(5, 1)),
        dict(size=(2,), stride=(1,), offset=5),
        dict(size=(10**12,), stride=(0,)),
        dict(size=(2**62, 4), stride=(1, 1)),
        dict(size=(2,), stride=(-1,), offset=3),
        dict(size=(2, 2), stride=(1,)),
        dict(size=(-1,), stride=(1,)),
        dict(size=(2,), stride=(1,), count=10**15),
        dict(size=(2,), stride=(1,), stored=5),
    ],
)
def test_lying_sizes(tmp_path, lie):
    write_tensor(tmp_path / "lie.pth", **lie)
    with pytest.raises(UserError, match="damaged"):
        read_torch_file(tmp_path / "lie.pth")


@pytest.mark.parametrize(
    "pickled", [b"", b".", b"}", b"t.", b"\x80\x02}X\x01", b"I1\nI2\nR.", b"h\x00."]
)
def test_damaged_pickles(tmp_path, pickled):
    with zipfile.ZipFile(tmp_path / "w.pth", "w") as archive:
        archive.writestr("archive/data.pkl", pickled)
    with pytest.raises(UserError, match="damaged|refused"):
        read_torch_file(tmp_path / "w.pth")


def write_pickle(path, value, protocol=2):
    """What torch.save writes of values that are no tensors."""
    pickled = pickle.dumps(value, protocol=protocol)
    if protocol == 3:  # NumPy 2's name; protocol 4 has lengths before names
        pickled = pickled.replace(b"cnumpy.core", b"cnumpy._core")
    with zipfile.ZipFile(path, "w") as archive:
        archive.writestr("archive/data.pkl", pickled)
    return path


@pytest.mark.parametrize("protocol", [2, 3, 4])
@pytest.mark.parametrize("dtype", ["<f4", ">f4", "<f8", "f2", "<i8", "u1", "?"])
def test_arrays_of_numpy(tmp_path, dtype, protocol):
    whole = COUNTING.astype(dtype)
    arrays = {"whole": whole, "fortran": whole.T, "scalar": np.array(3, dtype), "empty": whole[:0]}
    found = read_torch_file(write_pickle(tmp_path / "w.pth", {"model": arrays}, protocol))["model"]
    for name, array in arrays.items():
        native = array.dtype.newbyteorder("=")
        assert (found[name].dtype, found[name].shape) == (native, array.shape)
        np.testing.assert_array_equal(found[name], array)


@pytest.mark.parametrize(
    "array",
    [
        np.array([Evil(), None], object),
        np.array(["text"]),
        np.zeros(2, "f4,i4"),
        np.zeros(2, complex),
        np.zeros(2, "M8[s]"),
    ],
)
def test_other_arrays_of_numpy_are_refused(tmp_path, monkeypatch, array):
    monkeypatch.chdir(tmp_path)
    write_pickle("w.pth", {"model": {"x": array}})
    with pytest.raises(UserError, match="NumPy numbers of type|refused: it holds"):
        read_torch_file("w.pth")
    assert [path.name for path in tmp_path.iterdir()] == ["w.pth"]


class Reduced:
    def __init__(self, *how):
        self.how = how

    def __reduce__(self):
        return self.how


@pytest.mark.parametrize(
    "lie",
    [
        (1, (7,), np.dtype("<f4"), False, bytes(24)),
        (1, (2**40,), np.dtype("<f4"), False, bytes(24)),
        (1, (2**62, 4, 0), np.dtype("<f4"), False, b""),
        (1, (-6,), np.dtype("<f4"), False, bytes(24)),
        (1, (True,) * 40, np.dtype("<f4"), False, bytes(4)),
        (1, (6,), "<f4", False, bytes(24)),
        (1, (6,), np.dtype("<f4"), False, "x" * 24),
        (1, (3,), np.dtype("<f4"), False, [0, 0, 0]),
        ((6,), np.dtype("<f4")),
    ],
)
def test_lying_arrays_of_numpy(tmp_path, lie):
    made = COUNTING.__reduce__()[:2]
    with pytest.raises(UserError, match="damaged"):
        read_torch_file(write_pickle(tmp_path / "lie.pth", Reduced(*made, lie)))


def test_one_memory_of_many_arrays_of_numpy(tmp_path):
    """64 MiB of a file of 200 KB."""
    state = (1, (2**14,), np.dtype("<f4"), False, bytes(2**16))
    many = [Reduced(*COUNTING.__reduce__()[:2], state) for _ in range(1000)]
    with pytest.raises(UserError, match="refused: its .* too often"):
        read_torch_file(write_pickle(tmp_path / "many.pth", many))
