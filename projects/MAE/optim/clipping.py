"""Gradient clipping: by the norm of the gradients of all parameters together.

g = g * min(1, max_norm / (|g| + 1e-6)), with |g| over every parameter group (torch's `clip_grad_norm_`
and the authors' --clip_grad). OneFlow clips each group by its own norm, so that with layer decay, which
makes some 30 groups, the direction of a step would be another one.
"""
from oneflow.nn.utils import clip_grad_norm_

from projects.MAE.errors import UserError

NAMES = ("clip_grad_max_norm", "clip_grad_norm_type")


def clipping_of(optimizer):
    """(max_norm, norm_type) of an optimizer's groups, None where gradients are not clipped.

    Raises:
        UserError: groups that differ in it.
    """
    groups = optimizer.param_groups
    found = {tuple(group[n] if n in group else None for n in NAMES) for group in groups}
    if len(found) > 1:
        raise UserError("optim.params: all groups need the same clip_grad_max_norm and norm_type")
    (clipping,) = found
    return None if None in clipping else clipping


def clip_gradients(optimizer, clipping):
    """Clip the gradients that an optimizer's parameters hold; `clipping` is of `clipping_of`."""
    if clipping is not None:
        parameters = [p for group in optimizer.param_groups for p in group.parameters]
        clip_grad_norm_(parameters, *clipping)


def join_groups(train_conf):
    """Make one group of all that a graph's optimizer has, so that it clips by the norm of all.

    Args:
        train_conf: OneFlow's `TrainConf` of the graph; its `optimizer_conf` is written into.

    Returns:
        {name of a parameter's operator: (rate scale, weight decay)}, for `restore_groups`.
    """
    first, *others = train_conf.optimizer_conf
    own = {}
    for conf in (first, *others):
        rate = conf.lr_scale if conf.HasField("lr_scale") else 1.0
        if first.base_learning_rate:
            rate *= conf.base_learning_rate / first.base_learning_rate
        decay = conf.weight_decay_conf.weight_decay_rate
        own.update({f"{name}_optimizer": (rate, decay) for name in conf.variable_op_names})
    for conf in others:
        first.variable_op_names.extend(conf.variable_op_names)
    del train_conf.optimizer_conf[1:]
    return own


def restore_groups(job, own):
    """Write each parameter's own rate scale and weight decay into a graph's `Job`, once it is built: it
    has them as attributes of the operator that updates the parameter."""
    for op in job.net.op:
        if op.name in own:
            scale, decay = own[op.name]
            op.user_conf.attr["learning_rate_scale"].at_float = scale
            op.user_conf.attr["weight_decay"].at_float = decay
