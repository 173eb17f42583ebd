"""Trainings on a GPU against the CPU's numbers, each a process of its own.

    python tools/gpu/experiments.py DEVICE NAME [WORD ...]

DEVICE: cpu (OneFlow's own kernels), cuda, or emulated:LIBRARY (the CUDA kernels on this CPU).
NAME: a function below; WORDs change it. Its last line is RESULT and JSON. With REFERENCE=FILE in
the environment, cpu adds its numbers there, and the other devices say how far they are from them.
"""
import json
import os
import sys
import time
import traceback

import numpy as np

ROOT = os.path.abspath(os.path.join(os.path.dirname(__file__), "..", ".."))
sys.path.insert(0, ROOT)
os.environ.setdefault("MAE_NATIVE", "0")
DEVICE, _, LIBRARY = sys.argv[1].partition(":")
PLACED = "cuda" if DEVICE == "cuda" else "cpu"
TINY = dict(img_size=32, patch_size=8, embed_dim=48, depth=2, num_heads=4, decoder_embed_dim=32,
            decoder_depth=2, decoder_num_heads=4)  # fmt: skip
SHALLOW = dict(depth=1, decoder_depth=1)
BASE = dict(img_size=224, patch_size=16, embed_dim=768, depth=12, num_heads=12,
            decoder_embed_dim=512, decoder_depth=8, decoder_num_heads=16)  # fmt: skip


def start():
    """One rank, with the kernels loaded."""
    import oneflow as flow

    from projects.MAE.runtime import cuda_kernels
    from projects.MAE.runtime.compat import set_up_ranks

    if DEVICE == "cuda":
        print("kernels:", cuda_kernels.load(), flush=True)
    emulate()
    set_up_ranks(PLACED)
    flow.manual_seed(7)
    return flow


def emulate():
    """Where they are asked for, let the CUDA kernels run on this CPU, and models be a GPU's."""
    if DEVICE != "emulated":
        return
    from projects.MAE.modeling import encoder, global_tensors
    from projects.MAE.modeling.layer_kinds import LayerKinds
    from projects.MAE.modeling.layers import LayerNorm, Linear, TransformerLayer
    from projects.MAE.runtime import cuda_kernels

    cuda_kernels.emulate(LIBRARY, has_code="STRICT" not in os.environ)
    encoder.layer_kinds = lambda: LayerKinds(LayerNorm, Linear, TransformerLayer)
    global_tensors._standardize_by_products = global_tensors._standardize_by_means


def placed(array):
    """A global tensor, split by rows over the one rank."""
    import oneflow as flow

    local = flow.from_numpy(np.ascontiguousarray(array))
    return local.to_global(placement=flow.placement(PLACED, [0]), sbp=flow.sbp.split(0))


def adamw(model, lr=1e-3, beta2=0.95):
    import oneflow as flow

    return flow.optim.AdamW(model.parameters(), lr=lr, betas=(0.9, beta2), weight_decay=0.05)


def autoencoder(words):
    """A masked autoencoder from fixed weights, and a batch for it."""
    start()
    from projects.MAE.modeling.mae import MaskedAutoencoderViT

    sizes = BASE if "base" in words else dict(TINY, **SHALLOW) if "shallow" in words else TINY
    count = next((int(word) for word in words if word.isdigit()), 8)
    model = MaskedAutoencoderViT(norm_pix_loss=True, **sizes)
    side, patches = sizes["img_size"], (sizes["img_size"] // sizes["patch_size"]) ** 2
    rng = np.random.default_rng(11)
    images = rng.standard_normal((count, 3, side, side)).astype("f4")
    noise = rng.random((count, patches), dtype=np.float32)
    return model, dict(images=placed(images), noise=placed(noise))


def training_graph(model, words):
    from projects.MAE.modeling.graph import TrainGraph

    return TrainGraph(
        model,
        adamw(model),
        None,
        fp16="amp" in words,
        activation_checkpoint="checkpointing" in words,
        skip_bad_batches="skip" in words,
    )


def digest(model):
    """A number that differs if one bit of the weights does."""
    import hashlib

    weights = hashlib.sha256()
    for _, parameter in sorted(model.named_parameters()):
        weights.update(parameter.numpy().tobytes())
    return int(weights.hexdigest()[:12], 16)


# --- experiments ---------------------------------------------------------------------------------


def train(*words):
    """Losses of steps in a graph. Words: amp, checkpointing, skip, shallow, long (60 steps)."""
    model, batch = autoencoder(words)
    graph = training_graph(model, words)
    steps = 60 if "long" in words else 10
    losses = [float(graph(**batch)["losses"].numpy()) for _ in range(steps)]
    return dict(losses=losses, bits=digest(model))


def eager(*words):
    model, batch = autoencoder(words)
    optimizer, losses = adamw(model), []
    for _ in range(5):
        loss = model(**batch)["losses"]
        loss.backward()
        optimizer.step()
        optimizer.zero_grad()
        losses.append(float(loss.numpy()))
    return dict(losses=losses)


def evaluate(*words):
    """Evaluation mode, eager and (word graph) in a graph; sums of each output."""
    import oneflow as flow

    model, batch = autoencoder(words)
    model.eval()
    with flow.no_grad():
        outputs = model(**batch)
        if "graph" in words:
            from projects.MAE.modeling.graph import EvalGraph

            graph = EvalGraph(model, "amp" in words)
            for _ in range(3):
                outputs = graph(**batch)
    return {k: [float(np.abs(v.numpy().astype("f8")).mean())] for k, v in sorted(outputs.items())}


def classifier(*words):
    """Finetuning of a ViT with drop path, on soft and on hard labels; then its scores."""
    import oneflow as flow

    start()
    from projects.MAE.modeling.vit import VisionTransformer

    rng = np.random.default_rng(3)
    images = placed(rng.standard_normal((8, 3, 32, 32)).astype("f4"))
    soft = rng.random((8, 10), dtype=np.float32)
    labels = {"soft": soft / soft.sum(1, keepdims=True), "hard": rng.integers(0, 10, 8)}
    noise = placed(rng.random((8, 8), dtype=np.float32))
    results = {}
    for name, target in labels.items():
        flow.manual_seed(7)
        model = VisionTransformer(
            img_size=32, patch_size=8, embed_dim=48, depth=4, num_heads=4, drop_path_rate=0.3,
            num_classes=10,
        )  # fmt: skip
        graph = training_graph(model, words)
        step = dict(images=images, labels=placed(target), drop_path_noise=noise)
        results[name] = [float(graph(**step)["losses"].numpy()) for _ in range(5)]
    model.eval()
    with flow.no_grad():
        results["scores"] = model(images)["prediction_scores"].numpy().ravel().tolist()[:20]
    return results


def libai_vit(*words):
    """LiBai's own VisionTransformer, trained a few steps."""
    flow = start()
    from libai.models import VisionTransformer
    from oneflow import nn

    rng = np.random.default_rng(3)
    model = VisionTransformer(
        img_size=32, patch_size=8, embed_dim=48, depth=2, num_heads=4, num_classes=10
    )
    for name, parameter in sorted(model.named_parameters()):  # LiBai's draws differ by device
        with flow.no_grad():
            value = rng.standard_normal(tuple(parameter.shape)).astype("f4") * 0.05
            parameter.copy_(placed(value).to_global(sbp=parameter.sbp))

    class Graph(nn.Graph):
        def __init__(self):
            super().__init__()
            self.model = model
            self.add_optimizer(adamw(model))
            if "amp" in words:
                self.config.enable_amp(True)

        def build(self, images, labels):
            loss = self.model(images, labels)["losses"]
            loss.backward()
            return loss

    graph = Graph()
    images = placed(rng.standard_normal((8, 3, 32, 32)).astype("f4"))
    labels = placed(rng.integers(0, 10, 8))
    return dict(losses=[float(graph(images, labels).numpy()) for _ in range(5)])


def speed(*words):
    """ViT-Base: milliseconds of a step, images a second, memory. Words: base, a batch, amp, profile
    (of the kernels)."""
    import oneflow as flow

    from projects.MAE.runtime import cuda_kernels

    model, batch = autoencoder(words)
    count, first = batch["images"].shape[0], next(model.parameters())
    graph = training_graph(model, words)
    start_time = time.time()
    losses = [float(graph(**batch)["losses"].numpy()) for _ in range(3)]
    print(f"compiled and 3 steps in {time.time() - start_time:.1f} s", flush=True)
    best = 1e9
    for _ in range(3):
        first.numpy()
        start_time = time.time()
        for _ in range(10):
            loss = graph(**batch)["losses"]
        loss.numpy()
        first.numpy()
        best = min(best, (time.time() - start_time) / 10)
    used = flow._oneflow_internal.GetCUDAMemoryUsed() / 1024 if DEVICE == "cuda" else 0.0
    if "profile" in words:
        library = cuda_kernels._open()
        library.mae_cuda_start_profile()
        graph(**batch)["losses"].numpy()
        first.numpy()
        print("PROFILE", library.mae_cuda_stop_profile().decode(), flush=True)
    losses.append(float(loss.numpy()))
    return dict(
        ms=round(best * 1e3, 2), images_per_s=round(count / best), GiB=round(used, 2), losses=losses
    )


def refuse(*words):
    """An operator without a kernel is refused by name, and the process goes on."""
    flow = start()
    try:
        print(flow.tril(flow.ones(3, 3, device=PLACED)).numpy())
    except Exception as error:
        text = str(error)
        said = "tril" in text
        print("refused:", text[-400:].replace("\n", " "))
    else:
        said = False
    after = float((flow.ones(3, device=PLACED) + 1).sum().numpy())
    assert said and after == 6.0
    return dict(refused_by_name=said, afterwards=after)


def program(config, *arguments):
    """train_net.py in this process; the folder is the current one."""
    emulate()
    from projects.MAE.train_net import main

    main(["--config-file", f"{ROOT}/projects/MAE/configs/{config}", *arguments])
    return {}


# --- results -------------------------------------------------------------------------------------


def compare(key, result):
    """Print how far a result is from the CPU's, or add it to those."""
    path = os.environ.get("REFERENCE")
    if not path:
        return
    known = json.load(open(path)) if os.path.exists(path) else {}
    if DEVICE == "cpu":
        known[key] = result
        with open(path, "w") as file:
            json.dump(known, file, indent=1, sort_keys=True)
        return
    for name, wanted in known.get(key, {}).items():
        if not isinstance(wanted, list):
            continue
        found, wanted = np.array(result[name], "f8"), np.array(wanted, "f8")
        worst = float((np.abs(found - wanted) / (1e-6 + np.abs(wanted))).max())
        print(f"COMPARED {key} {name}: {worst:.2e} from the CPU's at most", flush=True)


if __name__ == "__main__":
    name, words = sys.argv[2], sys.argv[3:]
    status, begin = 0, time.time()
    try:
        result = globals()[name](*words)
        # Mixed precision is measured against float32.
        kept = [word for word in words if word not in ("amp", "skip", "checkpointing")]
        compare(" ".join([name, *kept]), result)
        print("RESULT", json.dumps(result), f"in {time.time() - begin:.1f} s", flush=True)
    except BaseException:
        traceback.print_exc()
        status = 1
    sys.stdout.flush()
    os._exit(status)  # not through OneFlow's shutdown
