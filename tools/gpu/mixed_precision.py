"""Which operators OneFlow's mixed precision computes in half, in each graph of the recipes.

    python tools/gpu/mixed_precision.py VARIANT

in the repository's root, on a GPU. VARIANT: full, the marks of `in_float32` as they are; inner,
without those of the difference and of log_softmax; none. Decides which marks are needed.
"""
import os
import sys

variant = sys.argv[1]
sys.argv = ["experiments.py", "cuda", "none"]
sys.path.insert(0, os.getcwd()); sys.path.insert(0, "tools/gpu")
import experiments as e
flow = e.start()
import numpy as np
from projects.MAE.modeling import layers, losses, mae, vit, linear_probe
real = layers.in_float32
if variant == "none":
    for m in (layers, losses, mae, vit, linear_probe):
        m.in_float32 = lambda x: x.float()
elif variant == "inner":  # without the second one of the difference, nor that of log_softmax
    def mse(pred, target):
        d = real(pred) - target
        return (d * d).mean()
    mae.mse = mse
    def ce(logits, targets):
        if targets.ndim == 1:
            return flow._C.sparse_softmax_cross_entropy(logits, targets).mean()
        return -(targets * flow.log_softmax(logits, dim=-1)).sum(dim=-1).mean()
    vit.cross_entropy = ce
from projects.MAE.modeling.graph import TrainGraph, EvalGraph
from projects.MAE.modeling.linear_probe import LinearProbe
from projects.MAE.probing import FrozenEncoder
HALF = 9
def report(name, graph, batch, steps=3):
    out = [graph(**batch) for _ in range(steps)]
    if isinstance(out[0], dict) and "losses" in out[0]:
        print(name, "losses", [float(o["losses"].numpy()) for o in out], flush=True)
    job = graph._compiled_job_proto if hasattr(graph, "_compiled_job_proto") else graph._full_job_proto
    blobs = job.helper.lbn2logical_blob_desc
    half_lbn = set()
    def is_half(lbn):
        return lbn in half_lbn or (lbn in blobs and blobs[lbn].data_type == HALF)
    for _ in range(60):  # the order of the list is not that of computing
        before = len(half_lbn)
        for op in job.net.op:
            if not op.HasField("user_conf"): continue
            u = op.user_conf
            ins = [s for p in u.input.values() for s in p.s]
            outs = [s for p in u.output.values() for s in p.s]
            if u.op_type_name in ("cast", "fused_cast_scale"):
                dtype = u.attr["dtype"].at_data_type if "dtype" in u.attr else 2
                if u.op_type_name == "cast" and dtype == HALF: half_lbn.update(outs)
            elif any(is_half(s) for s in ins): half_lbn.update(outs)
        if len(half_lbn) == before: break
    kinds = {}
    for op in job.net.op:
        if not op.HasField("user_conf"): continue
        u = op.user_conf
        t = u.op_type_name
        ins = [s for p in u.input.values() for s in p.s]
        outs = [s for p in u.output.values() for s in p.s]
        half = any(is_half(s) for s in (ins if t != "cast" else ins + outs))
        kinds.setdefault((t, "half" if half else "float"), []).append(op.name)
    watch = ("reduce_sum", "reduce_sum_like", "reduce_mean", "log_softmax", "log_softmax_grad", "softmax", "sparse_softmax_cross_entropy", "sparse_softmax_cross_entropy_grad", "layer_norm", "layer_norm_grad", "layer_norm_param_grad",
             "sqrt", "rsqrt", "broadcast_sub", "broadcast_div", "scalar_mul", "broadcast_mul", "add_n", "broadcast_like", "batch_gather", "amp_black_identity", "cast", "square", "gelu")
    for (t, h), names in sorted(kinds.items()):
        if t in watch:
            shown = names if len(names) <= 6 else names[:6] + ["..."]
            print(f"  {name} {t} {h} {len(names)}: {shown}")
rng = np.random.default_rng(0)
model, batch = e.autoencoder(["tiny"])
model.train()
report("pretrain", TrainGraph(model, e.adamw(model), None, fp16=True), batch)
model.eval(); report("evaluate", EvalGraph(model, fp16=True), batch, 1)
v = vit.VisionTransformer(img_size=32, patch_size=8, embed_dim=48, depth=2, num_heads=4, num_classes=10, drop_path_rate=0.1); v.train()
images = e.placed(rng.standard_normal((8, 3, 32, 32)).astype("f4"))
soft = e.placed(rng.dirichlet(np.ones(10), 8).astype("f4")); hard = e.placed(rng.integers(0, 10, 8)); noise = e.placed(rng.random((8, 4)).astype("f4"))
report("mixup", TrainGraph(v, e.adamw(v), None, fp16=True), dict(images=images, labels=soft, drop_path_noise=noise))
v = vit.VisionTransformer(img_size=32, patch_size=8, embed_dim=48, depth=2, num_heads=4, num_classes=10); v.train()
report("labels", TrainGraph(v, e.adamw(v), None, fp16=True), dict(images=images, labels=hard))
p = FrozenEncoder(LinearProbe(img_size=32, patch_size=8, embed_dim=48, depth=2, num_heads=4, num_classes=10, global_pool=True))
report("probe", EvalGraph(p, fp16=True), dict(images=images), 1)
os._exit(0)
