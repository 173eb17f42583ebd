"""Hostile pickles, and bytes changed at random: what `fuzz.py` makes weight files of."""
import pickle
import pickletools
import struct

NUMBERS = (0, 1, -1, 2, 127, 255, 2**15, 2**31 - 1, 2**31, 2**32 - 1, 2**40, 2**60, 2**63 - 1, 2**64 - 1)
TEXTS = ("", ".", "..", "../../etc/passwd", "/etc/passwd", "a\0b", "model", "\ud800", "x" * 5000, "name")
NAMES = (
    "os system", "builtins eval", "builtins exec", "subprocess Popen", "torch._utils _rebuild_tensor_v2",
    "collections OrderedDict", "argparse Namespace", "torch FloatStorage", "torch Size", "torch device",
    "numpy dtype", "numpy.core.multiarray scalar", "_codecs encode", "oneflow Tensor", "torch float32",
    "oneflow.nn Parameter", "builtins getattr", "copyreg _reconstructor", "torch.storage _load_from_bytes",
)  # fmt: skip


def text_of(text):
    data = text.encode("utf-8", "surrogatepass")
    return b"X" + struct.pack("<I", len(data)) + data


def int_of(number):
    return pickle.dumps(number, 2)[2:-1]


def mutate_bytes(rng, data):
    """Some bytes changed, removed, repeated or replaced by a number of note."""
    data = bytearray(data)
    if not data:
        return rng.randbytes(rng.randrange(64)) if hasattr(rng, "randbytes") else b"\0" * 8
    place = rng.randrange(len(data))
    span = min(1 + int(rng.expovariate(0.1)), len(data) - place)
    kind = rng.randrange(7)
    if kind == 0:
        data[place] ^= 1 << rng.randrange(8)
    elif kind == 1:
        data[place] = rng.randrange(256)
    elif kind == 2:
        del data[place:]
    elif kind == 3:
        del data[place : place + span]
    elif kind == 4:
        data[place:place] = data[place : place + span] * rng.choice((1, 2, 50))
    elif kind == 5:
        form = rng.choice(("<H", "<I", "<Q"))
        value = rng.choice(NUMBERS) % 2 ** (8 * struct.calcsize(form))
        data[place : place + struct.calcsize(form)] = struct.pack(form, value)
    else:
        other = rng.randrange(len(data))
        data[place : place + span] = data[other : other + span]
    return bytes(data)


def hostile_pickle(rng, valid):
    kind = rng.randrange(6)
    if kind == 0:
        return mutate_bytes(rng, valid)
    if kind == 1:
        return b"\x80\x04" + b"".join(_instruction(rng) for _ in range(rng.randrange(1, 60))) + b"."
    if kind == 2:
        return _bomb(rng)
    pieces = _split(valid)
    for _ in range(rng.choice((1, 1, 2, 5))):
        place, how = rng.randrange(len(pieces)), rng.randrange(4)
        if how == 0:
            pieces[place] = _instruction(rng)
        elif how == 1:
            pieces.insert(place, _instruction(rng))
        elif how == 2:
            del pieces[place]
            pieces = pieces or [b"."]
        else:
            pieces[place] = pieces[rng.randrange(len(pieces))]
    return b"".join(pieces)


def _split(data):
    """A pickle's instructions, one a piece."""
    starts = [position for _, _, position in pickletools.genops(data)] + [len(data)]
    return [data[a:b] for a, b in zip(starts, starts[1:])]


def _instruction(rng):
    """One pickle instruction of any kind, with an argument of its own or of none."""
    code = rng.choice(pickletools.opcodes)
    byte, argument = code.code.encode("latin1"), code.arg
    if argument is None:
        return byte
    module, name = rng.choice(NAMES).split(" ")
    if code.name in ("GLOBAL", "INST"):
        return byte + f"{module}\n{name}\n".encode()
    number, text = rng.choice(NUMBERS), rng.choice((*TEXTS, name)).encode("utf-8", "surrogatepass")
    if argument.n >= 0:
        return byte + (number % 256 ** min(argument.n, 8)).to_bytes(argument.n, "little")
    if argument.n == pickletools.UP_TO_NEWLINE:
        return byte + rng.choice((str(number).encode(), text, b"'" + text + b"'", b"1" * 5000)) + b"\n"
    width = {"1": 1, "4": 4, "8": 8}.get(argument.name[-1], 4)
    size = len(text) if rng.random() < 0.7 else number
    return byte + (size % 256**width).to_bytes(width, "little") + text


def _bomb(rng):
    """Little that stands for much: each level twice the one below, or nested very deep."""
    levels, kind = rng.choice((20, 60, 5000)), rng.randrange(5)
    pair, close = b"h\0h\0\x86q\0", (b"}h\0Ns.", b"N.", b"}" + text_of("model") + b"h\0s.", b"h\0.")
    start = b"\x80\x02" + b")q\0"
    if kind == 0:
        return start + pair * levels + rng.choice(close)
    if kind == 1:  # as a name, an argument, a key of a storage
        return start + pair * levels + rng.choice((
            b"h\0h\0\x93.", b"ctorch\ndevice\nh\0R.", b"h\0Q.", b"ctorch\nSize\nh\0R.",
            b"(" + text_of("storage") + b"ctorch\nFloatStorage\nh\0" + text_of("cpu") + b"K\1tQ.",
            b"ccollections\nOrderedDict\n(((h\0NtltR.", b"cargparse\nNamespace\n)Rh\0b.",
        ))  # fmt: skip
    if kind == 2:
        return b"\x80\x02" + b"]" * levels + b"a" * (levels - 1) + b"."
    if kind == 3:  # contains itself
        itself = b"".join(text_of(name) + b"h\0s" for name in ("model", "data"))
        return b"\x80\x02}q\0" + itself + rng.choice((b".", b"h\0Q."))
    return b"\x80\x02}" + b"".join(text_of(f"n{i}") + b"}s" for i in range(levels)) + b"."
