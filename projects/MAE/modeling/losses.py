"""The two losses: masked pixel reconstruction and classification."""
import oneflow as flow

from projects.MAE.modeling.global_tensors import in_float32, standardize_rows


def reconstruction_target(patches, norm_pix_loss):
    """What the decoder predicts: patches [N, L, P], each normalised by itself if asked for.

    The variance is the unbiased one and eps is 1e-6, as in the authors' code. In float32.
    """
    return standardize_rows(patches, eps=1e-6, correction=1) if norm_pix_loss else patches


def squared_error(pred, target):
    """The squared errors of patches [N, M, P], in float32."""
    difference = in_float32(in_float32(pred) - target)
    return difference * difference


def masked_mse(pred, target, mask):
    """Mean squared error over the masked patches (paper, section 3), in float32.

    Args:
        pred, target: [N, L, P].
        mask: float32 [N, L], 1 where a patch was removed; every row has the same number of ones.

    Returns:
        The mean over all masked patches, a scalar, and the mean of each sample, [N].
    """
    error = squared_error(pred, target).mean(dim=-1) * mask  # [N, L]
    per_sample = error.sum(dim=1) / mask.sum(dim=1)
    return error.sum() / mask.sum(), per_sample


def cross_entropy(logits, targets):
    """Cross entropy in float32, the mean over the samples, a scalar.

    Args:
        logits: [N, classes].
        targets: int64 [N] classes, or float32 [N, classes] probabilities (mixup, label smoothing).
    """
    logits = logits.float()
    if targets.ndim == 1:
        return flow._C.sparse_softmax_cross_entropy(logits, targets).mean()
    log_probabilities = in_float32(flow.log_softmax(logits, dim=-1))
    return -(targets * log_probabilities).sum(dim=-1).mean()
