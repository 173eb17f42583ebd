"""Small valid weight files of the kinds that the project reads: what `fuzz.py` breaks."""
import hashlib
import io
import json
import os
import zipfile

import numpy as np
import yaml

from projects.MAE.modeling.sizes import Sizes, shapes_of
from projects.MAE.weights.libai_names import torch_to_libai
from projects.MAE.weights.transformers_names import make_config, to_transformers
from tests.soak.fuzz_pickles import int_of, text_of

ENCODER = Sizes("encoder", 8, 4, 3, 8, 1, 16, None, None, None, None, None)
MODEL = "w/model_0000001/model"
# The weights of which training has a state.
TRAINED = {"cls_token": (1, 1, 8), "norm.bias": (8,)}
# What is read of a run's config.yaml.
STEPS = [
    {"_target_": "projects.MAE.data.transforms.Resize", "size": "${model.img_size}", "crop_ratio": 0.875},
    {"_target_": "projects.MAE.data.transforms.CenterCrop", "size": "${model.img_size}"},
    {"_target_": "projects.MAE.data.transforms.ToArray"},
]
CONFIG = {
    "model": {"img_size": 8, "embed_dim": 8, "num_heads": 2, "norm_pix_loss": True, "mask_ratio": 0.75},
    "dataloader": {"test": [{"dataset": {"transform": {"transforms": STEPS}}}]},
}


def small_state():
    """{name: float32 array} of a tiny encoder, in the authors' names."""
    rng = np.random.default_rng(0)
    return {name: rng.random(shape, np.float32) for name, shape in shapes_of(ENCODER).items()}


class Seeds:
    """The valid files that cases are made from, as {kind: {path in a folder: bytes}}."""

    def __init__(self):
        from safetensors.numpy import save

        state = small_state()
        renamed = to_transformers(state, bare=True)
        config = json.dumps(make_config(ENCODER, {"num_heads": 2})).encode()
        card = json.dumps(
            {"num_heads": 2, "norm_pix_loss": False, "classes": ["a", "b"], "epoch": 3}
        ).encode()
        torch_file = zip_of_torch(torch_pickle(state), state)
        tensors = save(state)
        libai = libai_files(torch_to_libai(state, 2), card)
        self.files = {
            "torch": {"w.pth": torch_file},
            "torch pickle": {"w.pth": torch_file},
            "safetensors": {"w.safetensors": tensors},
            "transformers": {"w/config.json": config, "w/model.safetensors": save(renamed)},
            "libai": libai,
            "libai pickle": libai,
            "card": {"w.safetensors": tensors, "w.safetensors.json": card},
            "manifest": {**libai, **manifest_of(libai)},
            "run": {**libai, "w/config.yaml": yaml.safe_dump(CONFIG).encode()},
            "state": state_files(),
            "report": report_files(card),
        }
        self.state = state


def torch_pickle(state):
    """The pickle of {"model": state} as torch.save writes it (protocol 2)."""
    parts = [b"\x80\x02}", text_of("model"), b"ccollections\nOrderedDict\n)R("]
    for key, (name, array) in enumerate(state.items()):
        parts += [text_of(name), b"ctorch._utils\n_rebuild_tensor_v2\n((", text_of("storage")]
        parts += [b"ctorch\nFloatStorage\n", text_of(str(key)), text_of("cpu"), int_of(array.size), b"tQ"]
        parts += [int_of(0), b"(", *map(int_of, array.shape), b"t("]
        strides = [stride // array.itemsize for stride in array.strides]
        parts += [*map(int_of, strides), b"t\x89ccollections\nOrderedDict\n)RtR"]
    return b"".join(parts) + b"us."


def zip_of_torch(data_pkl, state, **options):
    """A zip file as torch.save writes it."""
    file = io.BytesIO()
    with zipfile.ZipFile(file, "w", **options) as archive:
        archive.writestr("w/data.pkl", data_pkl)
        for key, array in enumerate(state.values()):
            archive.writestr(f"w/data/{key}", array.tobytes())
    return file.getvalue()


def libai_files(state, card):
    """The files of a LiBai output folder that holds one checkpoint."""
    names = b"".join(text_of(name) + tensor_pickle(name) for name in state)
    return {
        "w/last_checkpoint": b"model_0000001",
        **part_files(MODEL, b"}(" + names + b"u", state),
        f"{MODEL}/model_card.json": card,
    }


def part_files(folder, data, tensors):
    """The files of a part that `flow.save` wrote: the pickle of its data, and its tensors."""
    parts = [b"\x80\x02}(", text_of("protocol_version"), int_of(1), text_of("data"), data, b"u."]
    files = {f"{folder}/pickled_data": b"".join(parts)}
    for name, array in tensors.items():
        dims = "".join(f"  dim: {size}\n" for size in array.shape)
        kind = "kFloat" if array.dtype == np.float32 else "kInt64"
        files[f"{folder}/{name}/meta"] = f"shape {{\n{dims}}}\ndata_type: {kind}\n".encode()
        files[f"{folder}/{name}/out"] = array.tobytes()
    return files


def tensor_pickle(name):
    return b"coneflow\nTensor\n)R}" + text_of("path") + text_of(name) + b"sb"


def state_files():
    """A graph's, an optimizer's and a schedule's part of a checkpoint."""
    graph = {f"model.{name}-m": np.zeros(shape, np.float32) for name, shape in TRAINED.items()}
    graph["System-Train-TrainStep"] = np.ones(1, np.int64)
    names = b"".join(text_of(name) + tensor_pickle(name) for name in graph)
    moments = {str(i): np.zeros(shape, np.float32) for i, shape in enumerate(TRAINED.values())}
    state = b"".join(
        int_of(int(i)) + b"}" + text_of("exp_avg") + tensor_pickle(i) + b"s" for i in moments
    )
    state = text_of("state") + b"}(" + text_of("step") + int_of(3) + state + b"u"
    places = b"](" + b"".join(int_of(int(i)) for i in moments) + b"e"
    groups = text_of("param_groups") + b"](}" + text_of("params") + places + b"se"
    return {
        **part_files("w/graph", b"}(" + names + b"u", graph),
        **part_files("w/optimizer", b"}(" + state + groups + b"u", moments),
        **part_files("w/lr_scheduler", b"}" + text_of("last_step") + int_of(3) + b"s", {}),
    }


def report_files(card):
    """What a report reads of a run's folder."""
    lines = [{"iteration": i, "total_loss": 1 / i, "lr": 0.1, "samples_per_second": 9.5} for i in range(1, 9)]
    lines.insert(4, {"iteration": 4, "reconstruction_loss": 0.5})
    environment = dict(
        started="2026-11-25", arguments=["--config-file", "x.py", "a=b"], ranks=2, device="cpu",
        training_images=50, versions={"python": "3.10"}, task="pretraining", batch={"total": 4},
    )  # fmt: skip
    evaluation = {"Acc@1": 50.0, "weights": "w", "data": "d", "iteration": 4, "images": 10}
    return {
        "w/config.yaml": yaml.safe_dump({**CONFIG, "train": {"seed": 1, "train_iter": 8}}).encode(),
        "w/metrics.json": "\n".join(map(json.dumps, lines)).encode(),
        "w/environment.json": json.dumps(environment).encode(),
        "w/evaluation.json": json.dumps(evaluation).encode(),
        "w/evaluation/knn.json": json.dumps({**evaluation, "k": 20}).encode(),
        f"{MODEL}/model_card.json": card,
        "w/reconstructions/iteration_0000004.png": b"\x89PNG\r\n\x1a\n picture",
    }


def manifest_of(files):
    """The manifest of the checkpoint in `libai_files`."""
    checkpoint = MODEL[: -len("model")]
    entries = {
        path[len(checkpoint) :]: {"bytes": len(data), "sha256": hashlib.sha256(data).hexdigest()}
        for path, data in files.items()
        if path.startswith(checkpoint)
    }
    return {f"{MODEL}/manifest.json": json.dumps({"format": 1, "files": entries}).encode()}


def write(files, folder):
    """Write a case's files; a text is where a link leads to, or "pipe:"."""
    for path, data in files.items():
        target = os.path.join(folder, path)
        os.makedirs(os.path.dirname(target), exist_ok=True)
        if data == "pipe:":
            os.mkfifo(target)
        elif isinstance(data, str):
            os.symlink(data, target)
        else:
            with open(target, "wb") as file:
                file.write(data)
