"""Checkpoints of a tiny model, as a run leaves them."""
import numpy as np
import oneflow as flow
from libai.config import LazyCall
from omegaconf import OmegaConf

from projects.MAE.checkpoint.checkpointer import MAECheckpointer
from projects.MAE.modeling.graph import TrainGraph
from projects.MAE.modeling.mae import MaskedAutoencoderViT
from projects.MAE.optim.schedule import warmup_cosine_lr
from tests.sizes import TINY_MAE

CFG = OmegaConf.create(dict(train=dict(global_batch_size=8)), flags={"allow_objects": True})
CFG.optim = LazyCall(flow.optim.AdamW)(lr=0.1)
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

    checkpointer = MAECheckpointer(model, str(folder), **parts, lr_scheduler=scheduler)
    checkpointer.card, checkpointer.cfg = dict(CARD_OF_RUN, classes=["a", "b"]), CFG
    checkpointer.samples = 30
    return checkpointer, step


def newest(folder):
    return folder / "model_0000002"


class Loop:
    """What a hook sees of a trainer."""

    def __init__(self, start_iter, max_iter):
        self.start_iter, self.max_iter, self.iter = start_iter, max_iter, start_iter
