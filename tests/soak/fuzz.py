"""Broken and hostile weight files, made from a number: the same number, the same file.

A case is a small valid file or folder of the kinds that the project reads, with one or several of
its bytes, pickle instructions, lengths, shapes or JSON values replaced.
"""
import collections
import copy
import io
import json
import random
import struct
import warnings
import zipfile

import numpy as np

from tests.soak.fuzz_files import CONFIG, MODEL, torch_pickle, zip_of_torch
from tests.soak.fuzz_pickles import NUMBERS, TEXTS, hostile_pickle, mutate_bytes

KINDS = (
    "torch", "torch pickle", "safetensors", "transformers", "libai", "libai pickle", "card", "manifest",
    "run", "state", "report",
)  # fmt: skip
VALUES = (None, True, 0, -1, 2**70, 1.5, float("nan"), float("inf"), [], {}, "", "text", [[]], {"a": 1})


def case(number, seeds):
    """(kind, {path: bytes}) of a case."""
    rng = random.Random(number)
    kind = KINDS[number % len(KINDS)]
    files = dict(seeds.files[kind])
    for _ in range(rng.choice((1, 1, 1, 2, 4))):
        MUTATIONS[kind](rng, files, seeds)
    return kind, files


def _torch(rng, files, seeds):
    """The archive: its bytes near the ends, where zip keeps its lists, and its members."""
    data, kind = files["w.pth"], rng.randrange(6)
    if kind <= 1:
        files["w.pth"] = mutate_bytes(rng, data)
    elif kind == 2:  # the central directory and what points to it
        edge = max(data.rfind(b"PK\x01\x02") - 200 * rng.randrange(6), 0)
        files["w.pth"] = data[:edge] + mutate_bytes(rng, data[edge:])
    elif kind == 3:  # compressed, as a bomb is
        bomb = {"x": np.zeros(rng.choice((10, 10**6)), np.float32)}
        options = dict(compression=zipfile.ZIP_DEFLATED)
        files["w.pth"] = zip_of_torch(torch_pickle(bomb), bomb, **options)
    elif kind == 4:  # names twice, or of no use
        file = io.BytesIO(data)
        try:
            with zipfile.ZipFile(file, "a") as archive, warnings.catch_warnings():
                warnings.simplefilter("ignore")
                for _ in range(rng.choice((1, 3, 300))):
                    archive.writestr(rng.choice(("w/data.pkl", "w/data/0", "v/data.pkl", "w/x")), b"x")
        except Exception:  # an archive that an earlier mutation broke stays as it is
            return
        files["w.pth"] = file.getvalue()
    else:  # names, lengths and types in the pickle, without a change of its length
        at = data.find(rng.choice((b"storage", b"FloatStorage", b"cls_token", b"cpu", b"_rebuild")))
        if at >= 0:
            files["w.pth"] = data[:at] + rng.randbytes(2) + data[at + 2 :]


def _torch_pickle(rng, files, seeds):
    files["w.pth"] = zip_of_torch(hostile_pickle(rng, torch_pickle(seeds.state)), seeds.state)


def _libai_pickle(rng, files, seeds):
    path = next(path for path in files if path.endswith("pickled_data"))
    files[path] = hostile_pickle(rng, seeds.files["libai"][path])


def _state(rng, files, seeds):
    path = rng.choice(sorted(files))
    if path.endswith("pickled_data"):
        files[path] = hostile_pickle(rng, seeds.files["state"][path])
    else:
        _libai(rng, files, seeds)


def _safetensors(rng, files, seeds, path="w.safetensors"):
    data = files[path]
    if rng.random() < 0.3 or len(data) < 8:
        files[path] = mutate_bytes(rng, data)
        return
    (length,) = struct.unpack("<Q", data[:8])
    try:
        header = json.loads(data[8 : 8 + length])
    except (ValueError, RecursionError, OverflowError, MemoryError):
        files[path] = mutate_bytes(rng, data)
        return
    try:
        text = json.dumps(mutate_json(rng, header)).encode()
    except RecursionError:  # nested twice
        text = b"{" * 5000
    if rng.random() < 0.1:
        text = text[:-1] + b", " + text[1:]  # every key twice
    size = len(text) if rng.random() < 0.9 else rng.choice(NUMBERS) % 2**64
    files[path] = struct.pack("<Q", size) + text + data[8 + length :]


def mutate_json(rng, value):
    """A JSON value with one part replaced by another kind, a number of note, or nested."""
    containers, waiting = [], [value]
    while waiting:
        part = waiting.pop()
        if isinstance(part, (dict, list)) and part:
            containers.append(part)
            waiting += part.values() if isinstance(part, dict) else part
    if not containers:
        return rng.choice(VALUES)
    node = rng.choice(containers)
    key = rng.choice(sorted(node) if isinstance(node, dict) else range(len(node)))
    kind = rng.randrange(6)
    if kind == 0:
        del node[key]
    elif kind == 1:
        node[key] = _nested(rng.choice((3, 90, 900)))
    elif kind == 2:
        node[key] = rng.choice(NUMBERS)
    elif kind == 3 and isinstance(node, dict):
        node[rng.choice(TEXTS)] = node.pop(key)
    elif kind == 4:
        node[key] = rng.choice((*TEXTS, "F16", "BF16", "I64", "BOOL", "F8_E4M3", "F64"))
    else:
        node[key] = json.loads(json.dumps(rng.choice(VALUES)))
    return value


def _nested(depth):
    value = []
    for _ in range(depth):
        value = [value]
    return value


def _json_file(rng, files, path):
    try:
        text = json.dumps(mutate_json(rng, json.loads(files[path]))).encode()
    except (ValueError, RecursionError):
        text = files[path]
    kind = rng.randrange(10)
    if kind == 0:
        text = mutate_bytes(rng, text)
    elif kind == 1:
        text = b"[" * 100_000
    elif kind == 2:
        text = b'{"num_heads": ' * 5000
    elif kind == 3:
        text = json.dumps(rng.choice(VALUES)).encode()
    files[path] = text


def _transformers(rng, files, seeds):
    kind = rng.randrange(4)
    if kind == 0 and "w/model.safetensors" in files:
        _safetensors(rng, files, seeds, "w/model.safetensors")
    elif kind == 1 and "w/model.safetensors" in files:
        index = {"weight_map": collections.OrderedDict(a="model-1.safetensors", b=rng.choice(TEXTS[1:]))}
        files["w/model-1.safetensors"] = files.get("w/model.safetensors", b"")
        text = json.dumps(mutate_json(rng, index) if rng.random() < 0.7 else index)
        files["w/model.safetensors.index.json"] = text.encode()
        if rng.random() < 0.8:
            files.pop("w/model.safetensors")
    elif "w/model.safetensors" in files:
        _json_file(rng, files, "w/config.json")


def _libai(rng, files, seeds):
    kind = rng.randrange(5)
    ends = ("meta", "out", "last_checkpoint", "model_card.json", "meta")[kind]
    path = rng.choice(sorted(path for path in files if path.endswith(ends)) or sorted(files))
    if ends == "model_card.json":
        _json_file(rng, files, path)
    elif ends == "last_checkpoint":
        files[path] = rng.choice((*TEXTS, "model_x", "model_0000001\n")).encode("utf-8", "surrogatepass")
    elif kind == 4:
        sizes = [rng.choice((*NUMBERS, "9" * 5000)) for _ in range(rng.choice((0, 1, 3, 40)))]
        dims = "".join(f"dim: {size} " for size in sizes)
        files[path] = f"shape {{ {dims} }} data_type: {rng.choice(('kFloat', 'kBool', 'kX'))}".encode()
    elif rng.random() < 0.2:
        del files[path]
    else:
        files[path] = mutate_bytes(rng, files[path])


def _card(rng, files, seeds):
    _json_file(rng, files, "w.safetensors.json")


def _manifest(rng, files, seeds):
    if rng.random() < 0.8:
        _json_file(rng, files, f"{MODEL}/manifest.json")
    else:
        _libai(rng, files, seeds)


def _run(rng, files, seeds):
    """config.yaml: values, references to others, aliases, and bytes."""
    path, kind = "w/config.yaml", rng.randrange(8)
    text = files[path]
    if kind <= 4:
        try:  # JSON is YAML, too
            text = json.dumps(mutate_json(rng, copy.deepcopy(CONFIG))).encode()
        except RecursionError:  # nested too deep for Python to write
            text = b"[" * 5000
    elif kind == 5:
        text = mutate_bytes(rng, text)
    elif kind == 6:
        value = rng.choice((b"${model}", b"${model.num_heads}", b"${oc.env:HOME}", b"${", b"&a [*a]", b"???"))
        text = text.replace(rng.choice((b"0.75", b"${model.img_size}", b"2\n", b"true")), value + b" ")
    else:
        bomb = b"".join(b"x%d: &x%d [%s]\n" % (i, i, b",".join([b"*x%d" % (i - 1)] * 9)) for i in range(1, 9))
        text = b"x0: &x0 [lol]\n" + bomb + text
    files[path] = text


LINKS = ("/dev/zero", "/proc/self/environ", "/etc/passwd", "../..", ".", "/nonexistent", "pipe:")
REFERENCES = ("${oc.env:FUZZ_SECRET}", "${train}", "${train.x}", "${${train.seed}}", "${" * 50, "${a}${a}" * 20)


def _report(rng, files, seeds):
    """A run's folder: its configuration, figures, environment, cards and evaluations; links; pictures."""
    path, kind = rng.choice(sorted(files)), rng.randrange(8)
    if kind == 0:
        files[path] = rng.choice(LINKS)
    elif kind == 1:
        files[f"w/{rng.choice(('x', 'model_0000007/model', 'reconstructions/b.png'))}"] = rng.choice(LINKS)
    elif isinstance(files[path], str):
        return
    elif path.endswith("metrics.json"):
        lines = files[path].split(b"\n")
        place = rng.randrange(len(lines))
        one = {"line": lines[place]}
        _json_file(rng, one, "line")
        lines[place : place + 1] = [one["line"]] * rng.choice((1, 1, 300))
        if rng.random() < 0.1:
            rng.shuffle(lines)
        files[path] = b"\n".join(lines)
    elif path.endswith(".json"):
        _json_file(rng, files, path)
    elif path.endswith("config.yaml") and kind < 6:
        texts = [value.encode() for value in REFERENCES]
        texts += [b"9" * 5000, b"0x" + b"f" * 999, b"1" + b":1" * 99, b"2001-99-99", b"!!int [1]", b"</pre><script>"]
        text = files[path].split(b" ")
        text[rng.randrange(len(text))] = rng.choice(texts)
        files[path] = b" ".join(text)
    else:
        files[path] = mutate_bytes(rng, files[path])


MUTATIONS = {
    "torch": _torch,
    "torch pickle": _torch_pickle,
    "safetensors": _safetensors,
    "transformers": _transformers,
    "libai": _libai,
    "libai pickle": _libai_pickle,
    "card": _card,
    "manifest": _manifest,
    "run": _run,
    "state": _state,
    "report": _report,
}
