"""Reads PyTorch's zip files (torch.save since 1.6) without PyTorch and without running them."""
import argparse
import io
import math
import struct
import zipfile

import numpy as np

from projects.MAE.errors import UserError
from projects.MAE.utils.restricted_pickle import Built, Name, check_length, read_pickle
from projects.MAE.utils.untrusted_file import open_regular

STORAGES = {
    "DoubleStorage": "f8",
    "FloatStorage": "f4",
    "HalfStorage": "f2",
    "BFloat16Storage": "u2",  # the upper half of a float32
    "LongStorage": "i8",
    "IntStorage": "i4",
    "ShortStorage": "i2",
    "CharStorage": "i1",
    "ByteStorage": "u1",
    "BoolStorage": "?",
}
DTYPES = "float64 float32 float16 bfloat16 int64 int32 int16 int8 uint8 bool".split()
CORES = ("core", "_core")  # of NumPy 1 and 2
MOST_AXES = 32  # NumPy's
LONGEST_DIRECTORY = 1 << 21  # bytes of an archive's list of members: some twenty thousand
LONGEST_NAME = 200  # characters of a device, a type or the key of a storage
MOST_SHARED = 4  # bytes of tensors a byte of the file
ZIP_START = b"PK\x03\x04"
# The first object of torch.save before 1.6: a number of ten bytes, after the pickle's first two.
OLD_START = b"\x8a\x0al\xfc\x9cF\xf9 j\xa8P\x19"


def read_torch_file(path):
    """The object that torch.save wrote to a .pth, .pt or .bin file, its tensors as NumPy arrays.

    Tensors lie in the file until they are used (they are mapped, not read); bfloat16 becomes
    float32. argparse.Namespace stays one; objects of other classes are refused.

    Raises:
        UserError: truncated, compressed, of the format before PyTorch 1.6, no torch file at all, or
            it holds code.
    """
    check_start(path)
    try:
        with open_regular(path) as raw, _Reader(raw.fileno(), closefd=False) as file, zipfile.ZipFile(file) as archive:
            members = {info.filename: info for info in archive.infolist()}
    # What zipfile makes of damage: no directory; the disk, or a place before the file's start; a
    # comment or name that is no text; a version of the format of the future; a directory cut short.
    except (zipfile.BadZipFile, OSError, ValueError, NotImplementedError, struct.error) as error:
        what = f"damaged or truncated ({error}); copy or download it again"
        raise UserError(what, path=path) from None
    pickles = [n for n in members if n.count("/") == 1 and n.endswith("/data.pkl")]
    if len(pickles) != 1:
        raise UserError("a zip archive, but not one of torch.save (no data.pkl in it)", path=path)
    return _TorchZip(path, members, pickles[0][: -len("data.pkl")]).read()


def check_start(path):
    """Raise a UserError unless a file begins as torch.save's zip files do."""
    try:
        with open_regular(path) as file:
            start = file.read(16)
    except OSError as error:
        raise UserError(f"{error.strerror}", path=path) from None
    if start.startswith(ZIP_START):
        return
    if start[2:].startswith(OLD_START):
        way_out = "write it anew with PyTorch: torch.save(torch.load(OLD, map_location='cpu'), NEW)"
        raise UserError(f"PyTorch's format of before version 1.6; {way_out}", path=path)
    raise UserError(f"not a PyTorch file (it begins with {start[:8]!r})", path=path)


def bfloat16_to_float32(bits):
    """uint16 of any shape, the upper halves of float32 numbers -> float32."""
    wide = bits.astype(np.uint32)
    wide <<= 16
    return wide.view(np.float32)


class _Reader(io.FileIO):
    """A file of which no longer piece is read than an archive's list of members may be."""

    def read(self, count=-1):
        if count > LONGEST_DIRECTORY:
            raise zipfile.BadZipFile(f"a list of members of {count} bytes")
        return super().read(count)


class _Storage:
    """The memory behind tensors: a flat array. Of bfloat16 it becomes float32 once, however many
    tensors share it."""

    def __init__(self, array, is_bfloat16):
        self.array = bfloat16_to_float32(array) if is_bfloat16 else array


class _TorchZip:
    """One archive of torch.save: `root`/data.pkl and a file `root`/data/KEY for each storage."""

    def __init__(self, path, members, root):
        self.path, self.members, self.root = path, members, root
        # Mapped once: each mapping keeps a handle of the file, of which a process has 1,024.
        self.bytes = np.asarray(np.memmap(path, np.uint8, "r"))
        self.length = len(self.bytes)
        self.storages = {}
        self.numbers = 0  # bytes of all tensors
        self.widened = 0  # bytes of bfloat16 that became float32

    def read(self):
        order = self.root + "byteorder"
        if order in self.members and bytes(self.map(order)) != b"little":
            raise UserError("written on a big-endian machine; write it on another", path=self.path)
        known = {
            "argparse.Namespace": _namespace,
            "torch._utils._rebuild_tensor_v2": self.tensor,
            "torch._utils._rebuild_parameter": lambda data, *unused: data,
            "torch.Size": _size,
            "torch.device": _device,
            "numpy.dtype": _number_type,
            "numpy.ndarray": None,
            **{f"numpy.{core}.multiarray.scalar": _number for core in CORES},
            **{f"numpy.{core}.multiarray._reconstruct": self.array for core in CORES},
            "_codecs.encode": _latin1_bytes,
            "__builtin__.bytes": lambda: b"",
            **{f"torch.{name}": None for name in (*STORAGES, *DTYPES)},
        }
        pickle = self.map(self.root + "data.pkl")
        check_length(len(pickle), self.path)
        return read_pickle(bytes(pickle), self.path, known, self.storage)

    def map(self, name):
        """uint8 [bytes]: a member, mapped from the file."""
        info = self.members.get(name)
        if info is None:
            raise UserError(f"damaged, the part {name} is missing", path=self.path)
        if not 0 <= info.header_offset < self.length:
            raise UserError(f"damaged at the part {name}", path=self.path)
        if info.compress_type != zipfile.ZIP_STORED or info.compress_size != info.file_size:
            raise UserError(f"{name} is compressed, which torch.save never does", path=self.path)
        header = bytes(self.bytes[info.header_offset :][:30])
        if len(header) < 30 or not header.startswith(ZIP_START):
            raise UserError(f"damaged at the part {name}", path=self.path)
        start = info.header_offset + 30 + sum(struct.unpack("<HH", header[26:30]))
        if start + info.file_size > self.length:
            raise UserError(f"truncated in the part {name}", path=self.path)
        return self.bytes[start : start + info.file_size]

    def storage(self, identifier):
        """("storage", Name of its class, key, device, count) -> _Storage."""
        _, kind, key, _, count = identifier
        if not isinstance(kind, Name) or kind.name not in STORAGES:
            what = kind if isinstance(kind, Name) else f"of a {type(kind).__name__}"
            raise UserError(f"tensors of the kind {what} are not known", path=self.path)
        if not isinstance(count, int) or not 0 <= count < 2**63:
            raise ValueError("a storage without a length")
        key = _name(key)
        if (kind.name, key) not in self.storages:
            is_bfloat16 = kind.name == "BFloat16Storage"
            dtype = np.dtype(STORAGES[kind.name])
            data = self.map(f"{self.root}data/{key}")
            if len(data) != count * dtype.itemsize:
                sizes = f"{len(data)} bytes instead of {count * dtype.itemsize}"
                raise UserError(f"damaged, {self.root}data/{key} has {sizes}", path=self.path)
            self.widened += len(data) * is_bfloat16
            if self.widened > self.length:
                raise UserError("refused: its parts lie in one another", path=self.path)
            self.storages[kind.name, key] = _Storage(data.view(dtype), is_bfloat16)
        return self.storages[kind.name, key]

    def tensor(self, storage, offset, size, stride, *unused):
        """An array of shape `size` that views a storage; sizes are checked, never believed."""
        if not isinstance(storage, _Storage) or len(size) != len(stride) or len(size) > MOST_AXES:
            raise ValueError("a tensor without storage, or of no shape")
        if not all(isinstance(n, int) and 0 <= n < 2**63 for n in (offset, *size, *stride)):
            raise ValueError("a size below 0, or too large")
        count, flat = math.prod(size), storage.array
        last = offset + sum((n - 1) * step for n, step in zip(size, stride)) if count else 0
        if count > len(flat) or (count and last >= len(flat)):
            storage_size = f"its storage of {len(flat)} numbers"
            what = f"damaged, a tensor of shape {tuple(size)} does not fit into {storage_size}"
            raise UserError(what, path=self.path)
        if not count:
            flat, stride, offset = np.zeros(0, flat.dtype), [0] * len(size), 0
        # Those that share a storage are copied when they become float32.
        self.spend(count * flat.itemsize, len(flat))
        strides = [step * flat.itemsize for step in stride]
        return np.lib.stride_tricks.as_strided(flat[offset:], size, strides, writeable=False)

    def array(self, kind, *unused):
        """A NumPy array of numbers, which lie in the pickle; sizes are checked, never believed."""
        if str(kind) != "numpy.ndarray":
            raise ValueError("a NumPy array of another class")
        value = np.empty(0, np.uint8)

        def take(state):
            _, shape, of, is_fortran, data = state
            if not isinstance(of, _NumberType) or not isinstance(data, bytes):
                raise ValueError("a NumPy array without type or numbers")
            if not all(type(n) is int and n >= 0 for n in _size(shape)):
                raise ValueError("a NumPy array of no shape")
            count, most = math.prod(shape), math.prod(n or 1 for n in shape)
            if count * of.dtype.itemsize != len(data) or most > self.length:
                raise ValueError(f"a NumPy array of shape {shape} with {len(data)} bytes")
            self.spend(len(data), count)  # they are copied
            value.__setstate__((1, shape, of.dtype, bool(is_fortran), data))

        return Built(value, take)

    def spend(self, count, numbers):
        """Note bytes of tensors, of which a file may repeat some, but not many times."""
        self.numbers += count
        if self.numbers > MOST_SHARED * self.length:
            raise UserError(f"refused: its tensors share {numbers} numbers too often", path=self.path)


def _namespace(*unused):
    value = argparse.Namespace()

    def take(state):
        vars(value).update({_name(key): item for key, item in dict.items(state)})

    return Built(value, take)


def _size(sizes):
    if len(sizes) > MOST_AXES:
        raise ValueError(f"a shape of {len(sizes)} axes")
    return tuple(sizes)


def _name(text):
    """A short text; a ValueError for anything else."""
    if not isinstance(text, str) or len(text) > LONGEST_NAME:
        raise ValueError("something that is no name")
    return text


def _device(kind, index=None):
    if index is None:
        return _name(kind)
    if not isinstance(index, int):
        raise ValueError("a device without a number")
    return f"{_name(kind)}:{index}"


class _NumberType:
    """NumPy's type of a number."""

    def __init__(self, code):
        self.dtype = np.dtype(_name(code)).newbyteorder("<")
        if self.dtype.kind not in "biuf":
            raise ValueError(f"NumPy numbers of type {self.dtype}")

    def take(self, state):
        """(version, order of bytes, ...)"""
        self.dtype = self.dtype.newbyteorder(">" if state[1] == ">" else "<")


def _number_type(code, *unused):
    value = _NumberType(code)
    return Built(value, value.take)


def _number(of, data):
    if not isinstance(of, _NumberType):
        raise ValueError("a NumPy number without a type")
    return np.frombuffer(data, of.dtype, count=1)[0].item()


def _latin1_bytes(text, encoding):
    """How pickles of protocol 2 spell bytes."""
    if encoding != "latin1":
        raise ValueError(f"bytes in {encoding}")
    return text.encode("latin1")
