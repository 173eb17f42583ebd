"""Training of a linear probe: features from a frozen encoder, then one step of the head."""
import time

import oneflow as flow
from oneflow import nn

from projects.MAE.engine.eager import AccumulatingTrainer
from projects.MAE.engine.trainer import MAETrainer
from projects.MAE.modeling.graph import evaluator_of
from projects.MAE.optim.clipping import clip_gradients
from projects.MAE.runtime.micro_batches import join_batch, split_batch


class FrozenEncoder(nn.Module):
    """The encoder of a `LinearProbe` as a module of its own, images to features, for graphs."""

    def __init__(self, probe):
        super().__init__()
        self.probe = probe
        self.eval()

    def forward(self, images):
        """float32 [N, C, H, W] -> float32 [N, D]."""
        # In a graph, self.probe is a proxy, which has the methods of the module behind it.
        return self.probe.forward_features(images)


class HeadTrainer(AccumulatingTrainer):
    """An iteration takes the features of each micro-batch, then trains the head on all of them.

    So the statistics of `FeatureNorm` and the norms of LARS are those of the global batch, with
    any number of accumulation steps, and what these save is the memory of the encoder's pass.
    """

    def __init__(self, model, *arguments, **options):
        super().__init__(model, *arguments, **options)
        self.encode = model.forward_features  # unless something faster is put here

    def run_step(self, get_batch):
        start = time.perf_counter()
        data = get_batch(next(self._data_loader_iter))
        data_time = time.perf_counter() - start
        labels = data.pop("labels")
        data.pop("drop_path_noise", None)  # of a data set of the user's own, which finetuning takes, too
        with flow.no_grad():
            features = [self.encode(**micro) for micro in split_batch(data, self.grad_acc_steps)]
        losses = self.model.classify(join_batch(features), labels)
        losses["losses"].backward()
        metrics = {"losses": losses["losses"].detach()}
        if self.after_loss(lambda: self.write_metrics(metrics, data_time)):
            clip_gradients(self.optimizer, self.clipping)
            self.optimizer.step()
            self.model.feature_norm.follow()
        self.optimizer.zero_grad()


class ProbeTrainer(MAETrainer):
    """`MAETrainer` for a `LinearProbe`.

    The head and its LARS always run in eager mode; with graph.enabled the encoder runs in a graph,
    where graphs without a backward pass work.
    """

    eager_trainer = HeadTrainer

    def __init__(self, run, dataset):
        super().__init__(run, dataset)
        encoder = evaluator_of(FrozenEncoder(self.model), run.cfg.graph.enabled, run.half_precision)
        self.model.train()
        if isinstance(encoder, flow.nn.Graph):
            self._trainer.encode = encoder
