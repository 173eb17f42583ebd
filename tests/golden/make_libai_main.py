"""Makes libai_main.zip: output folders, inputs and outputs of LiBai main's own projects/MAE, on a CPU.

    git clone --depth 1 https://github.com/Oneflow-Inc/libai LIBAI
    pip install --target DEPS --no-deps dill
    PYTHONPATH=LIBAI/projects/MAE:LIBAI:DEPS:. python tests/golden/make_libai_main.py

Nothing of LiBai main is changed; this project lends it the CPU kernels that OneFlow 0.9 lacks.
"""
import functools
import os
import shutil
import tempfile

import numpy as np
import oneflow as flow
from libai.config import LazyCall, LazyConfig
from libai.layers import LayerNorm
from libai.utils import distributed as dist
from libai.utils.checkpoint import Checkpointer
from modeling.mae import MaskedAutoencoderViT
from modeling.vit import VisionTransformer
from omegaconf import OmegaConf

from projects.MAE.runtime import native

TARGET = os.path.join(os.path.dirname(os.path.abspath(__file__)), "libai_main")
ENCODER = dict(img_size=16, patch_size=8, embed_dim=16, depth=2, num_heads=2)
DECODER = dict(decoder_embed_dim=12, decoder_depth=1, decoder_num_heads=3)


def main(folder):
    ranks = dict(data_parallel_size=1, tensor_parallel_size=1, pipeline_parallel_size=1)
    ranks.update(pipeline_num_layers=3, custom_pipeline_stage_id=None, device_type="cpu")
    dist.setup_dist_util(OmegaConf.create(dict(ranks, num_nodes=1, num_gpus_per_node=1)))
    native.load()
    flow.manual_seed(0)
    rng = np.random.default_rng(0)
    norm = functools.partial(LayerNorm, eps=1e-6)
    kinds = {
        "mae": (MaskedAutoencoderViT, dict(DECODER, norm_layer=norm, norm_pix_loss=True)),
        "mean": (VisionTransformer, dict(num_classes=5, global_pool=True)),
        "token": (VisionTransformer, dict(num_classes=5, global_pool=False)),
    }
    images = rng.normal(size=(4, 3, 16, 16)).astype(np.float32)
    np.save(os.path.join(folder, "images.npy"), images)
    for name, (kind, options) in kinds.items():
        model = kind(**ENCODER, **options).eval()
        for tensor in model.parameters():
            moved = tensor.numpy() + rng.normal(0, 0.1, tensor.shape).astype(np.float32)
            with flow.no_grad():
                tensor.copy_(flow.tensor(moved).to_global(placement=tensor.placement, sbp=tensor.sbp))
        out = os.path.join(folder, name)
        Checkpointer(model, out).save("model_final")
        cfg = OmegaConf.create(dict(train=dict(seed=1)), flags={"allow_objects": True})
        cfg.model = LazyCall(kind)(**ENCODER, **options)
        LazyConfig.save(cfg, os.path.join(out, "config.yaml"))
        if name != "mae":
            sbp = dist.get_nd_sbp([flow.sbp.split(0), flow.sbp.broadcast])
            x = flow.tensor(images).to_global(placement=dist.get_layer_placement(0), sbp=sbp)
            np.save(os.path.join(out, "scores.npy"), model(x)["prediction_scores"].numpy())


if __name__ == "__main__":
    with tempfile.TemporaryDirectory() as folder:
        main(folder)
        shutil.make_archive(TARGET, "zip", folder)
