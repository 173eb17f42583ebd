"""A frozen encoder with a linear classifier on its features: what linear probing trains."""
import oneflow as flow
from libai.utils import distributed as dist
from oneflow import nn

from projects.MAE.modeling.global_tensors import batch_sbp, broadcast_sbp, in_float32
from projects.MAE.modeling.vit import VisionTransformer


class FeatureNorm(nn.Module):
    """Batch normalisation of features, without a scale and a shift of its own.

    The statistics are those of the whole global batch, whatever ranks share it. The authors'
    BatchNorm1d takes each GPU's rows by themselves, so that their result depends on the number of
    GPUs; OneFlow's BatchNorm does the same. `running_var` follows the unbiased variance, as in
    PyTorch.

    Args:
        eps, momentum: as in PyTorch's BatchNorm1d; momentum is the share of the new batch.
        layer_idx: of the transformer block whose ranks hold the statistics.
    """

    def __init__(self, features, eps=1e-6, momentum=0.1, *, layer_idx):
        super().__init__()
        self.eps, self.momentum = eps, momentum
        self._latest = None  # mean and variance of the last batch in training

        def statistic(value):
            placement = dist.get_layer_placement(layer_idx)
            return flow.full((features,), value, placement=placement, sbp=broadcast_sbp())

        self.register_buffer("running_mean", statistic(0.0))
        self.register_buffer("running_var", statistic(1.0))

    def forward(self, x):
        """float32 [N, D] that needs no gradient, split by samples -> the same, normalised."""
        with flow.no_grad():
            if not self.training:
                return (x - self.running_mean) * flow.rsqrt(self.running_var + self.eps)
            count = x.shape[0]
            mean = x.mean(dim=0).to_global(sbp=broadcast_sbp())  # over all ranks
            centred = x - mean
            squares = (centred * centred).sum(dim=0).to_global(sbp=broadcast_sbp())
            self._latest = mean, squares / max(count - 1, 1)
            return centred * flow.rsqrt(squares / count + self.eps)

    def follow(self):
        """Let the running statistics follow the latest batch; for every batch that is trained on.

        It is no part of `forward`, so that a batch whose update is left out leaves no trace.
        """
        with flow.no_grad():
            for running, latest in zip((self.running_mean, self.running_var), self._latest):
                running.copy_(running * (1.0 - self.momentum) + latest * self.momentum)


class LinearProbe(VisionTransformer):
    """A `VisionTransformer` of which the head alone is trained (paper, section 4.1).

    The encoder is frozen and always in evaluation mode; `feature_norm` stands before the head.
    Takes the arguments of `VisionTransformer`, `drop_path_rate` left out. The paper classifies the
    class token: global_pool=False.
    """

    head_std = 0.01

    def __init__(self, *, global_pool=False, **sizes):
        super().__init__(global_pool=global_pool, **sizes)
        embed_dim = self.head.weight.shape[0]
        self.feature_norm = FeatureNorm(embed_dim, layer_idx=self.depth - 1)
        for name, parameter in self.named_parameters():
            parameter.requires_grad_(name.startswith("head."))

    def forward_features(self, images):
        """float32 [N, C, H, W] -> float32 [N, D] without a gradient."""
        with flow.no_grad():
            return in_float32(VisionTransformer.forward_features(self, images))

    def classify(self, features, labels=None):
        """The trained part: features [N, D] and int64 [N] or None -> as `forward`."""
        logits = self.head(self.feature_norm(features.to_global(sbp=batch_sbp())))
        if self.training and labels is not None:
            return {"losses": self.loss_func(logits, labels.to_global(placement=logits.placement))}
        return {"prediction_scores": logits}

    def forward(self, images, labels=None):
        """Images float32 [N, C, H, W], labels int64 [N] -> as `VisionTransformer.forward`."""
        return self.classify(self.forward_features(images), labels)
