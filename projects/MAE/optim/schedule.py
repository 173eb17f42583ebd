"""The learning-rate schedule of pretraining, finetuning and probing."""
from oneflow.optim.lr_scheduler import CosineAnnealingLR, LinearLR, SequentialLR


class _ScaledSequentialLR(SequentialLR):
    """A SequentialLR that applies a parameter group's `lr_scale`, as graphs do by themselves.

    In eager mode OneFlow ignores `lr_scale`, so the rate each group gets is scaled here. A graph
    compiles `initial_lr` and `lr_scale` into itself and does not look at `group["lr"]`.
    """

    def update_lrs(self, lrs):
        self._last_lr = list(lrs)
        for group, lr in zip(self.optimizer.param_groups, lrs):
            group["lr"] = lr * (group["lr_scale"] if "lr_scale" in group else 1.0)


def warmup_cosine_lr(optimizer, max_iter, warmup_iter, min_lr=0.0):
    """Linear warm-up from 0, then half a cosine down to min_lr, set before every iteration.

    rate(t) = peak * t / warmup_iter                                             for t < warmup_iter
    rate(t) = min_lr + (peak - min_lr) / 2 * (1 + cos(pi * (t - warmup_iter) / (max_iter -
    warmup_iter))) after it, times the group's `lr_scale` (He et al., code: lr_sched.py's formula).

    Args:
        optimizer: its rate is the peak.
        max_iter: iterations of the whole run.
        warmup_iter: iterations of the warm-up, 0 for none, at most max_iter.
        min_lr: rate at the end.

    Returns:
        A scheduler for eager and graph mode; `get_last_lr` gives the rates before `lr_scale`.
    """
    cosine = CosineAnnealingLR(optimizer, T_max=max(max_iter - warmup_iter, 1), eta_min=min_lr)
    if warmup_iter == 0:
        return _ScaledSequentialLR(optimizer, [cosine], milestones=[])
    warmup = LinearLR(optimizer, start_factor=0.0, end_factor=1.0, total_iters=warmup_iter)
    # Rescaling starts the cosine at 0 when the warm-up ends.
    return _ScaledSequentialLR(
        optimizer, [warmup, cosine], milestones=[warmup_iter], interval_rescaling=True
    )
