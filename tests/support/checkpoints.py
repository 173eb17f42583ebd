"""Checkpoints of a tiny model, as a run leaves them."""
from types import SimpleNamespace

import numpy as np
import oneflow as flow
from libai.config import LazyCall
from omegaconf import OmegaConf

from projects.MAE.checkpoint.checkpointer import MAECheckpointer
from projects.MAE.modeling.graph import TrainGraph
from projects.MAE.modeling.mae import MaskedAutoencoderViT
from projects.MAE.optim.schedule import warmup_cosine_lr
from projects.MAE.parallel.layout import Batch
from projects.MAE.settings.run import Schedule
from projects.MAE.weights.files import read_weight_file
from tests.support.sizes import TINY_MAE

CARD_OF_RUN = dict(
    model="MaskedAutoencoderViT", embed_dim=64, seed=0, global_batch_size=8, optimizer="AdamW"
)


def trained(folder, graph_mode, seed=0, steps=1, lr=1e-2, iterations=10):
    """A checkpointer for a tiny model that has taken `steps` steps."""
    checkpointer, step = training(folder, graph_mode, seed, lr, iterations)
    for _ in range(steps):
        step()
    return checkpointer


def training(folder, graph_mode, seed=0, lr=1e-2, iterations=10):
    """A checkpointer for a tiny model, and a function that takes a step."""
    flow.manual_seed(seed)
    model = MaskedAutoencoderViT(**TINY_MAE)
    betas = OmegaConf.create(dict(betas=[0.9, 0.95])).betas  # as a configuration gives them
    optimizer = flow.optim.AdamW(model.parameters(), lr=lr, betas=betas)
    scheduler = warmup_cosine_lr(optimizer, iterations, 0)
    rng = np.random.default_rng(seed)
    inputs = [rng.random(shape, dtype=np.float32) for shape in [(2, 3, 32, 32), (2, 64)]]
    placement = next(model.parameters()).placement
    inputs = [
        flow.from_numpy(x).to_global(placement=placement, sbp=model.cls_token.sbp) for x in inputs
    ]
    parts = dict(optimizer=optimizer)
    if graph_mode:
        graph = TrainGraph(model, optimizer, scheduler)
        parts = dict(graph=graph)

    def step():
        if graph_mode:
            graph(images=inputs[0], noise=inputs[1])
        else:
            model(*inputs)["losses"].backward()
            optimizer.step()
            optimizer.zero_grad()
        scheduler.step()

    card = dict(CARD_OF_RUN, classes=["a", "b"])
    checkpointer = MAECheckpointer(
        model, run_in(str(folder)), card, **parts, lr_scheduler=scheduler
    )
    return checkpointer, step


def run_in(folder):
    """A `Run` of 30 images in batches of 8, as far as a checkpoint tells of it."""
    cfg = OmegaConf.create(dict(train=dict(output_dir=folder)), flags={"allow_objects": True})
    cfg.optim = LazyCall(flow.optim.AdamW)(lr=0.1)
    return SimpleNamespace(
        cfg=cfg, batch=Batch(micro=8, steps=1, total=8), schedule=Schedule(30, 10, 0, 0.1)
    )


def newest(folder):
    return folder / "model_0000002"


class Loop:
    """What a hook sees of a trainer."""

    def __init__(self, start_iter, max_iter):
        self.start_iter, self.max_iter, self.iter = start_iter, max_iter, start_iter


def load_torch_state_dict(path):
    """{name: float32 array} of weights of other projects, in the authors' names and layout."""
    return read_weight_file(path)[0]
