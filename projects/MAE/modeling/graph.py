"""The static graphs of training and evaluation."""
import oneflow as flow
from oneflow import nn

from projects.MAE.modeling.global_tensors import mixed_precision
from projects.MAE.modeling.layers import TransformerLayer
from projects.MAE.optim.clipping import clipping_of, join_groups, restore_groups
from projects.MAE.runtime.compat import forward_graphs_work_on, graphs_accumulate_on
from projects.MAE.runtime.micro_batches import split_batch


class TrainGraph(nn.Graph):
    """One optimizer step: forward and backward of every micro-batch, then the update.

    LiBai 0.1.1's GraphBase reads `module.origin`, which OneFlow 0.9 no longer has.

    Args:
        model: returns {"losses": scalar} in training mode.
        optimizer, lr_scheduler: OneFlow's; the graph compiles both into itself.
        fp16: automatic mixed precision with a dynamic loss scale (CUDA only).
        activation_checkpoint: recompute the activations of each block in the backward pass.
        grad_acc_steps: micro-batches a step; each rank's rows are split into as many.
        zero_stage: 0 for none, else the stage of ZeRO's redundancy-free optimizer (CUDA only).
        skip_bad_batches: leave out the update, and count no step, where the loss or a gradient is
            not finite. It costs a look at every gradient.
    """

    def __init__(
        self,
        model,
        optimizer,
        lr_scheduler,
        fp16=False,
        activation_checkpoint=False,
        grad_acc_steps=1,
        zero_stage=0,
        skip_bad_batches=False,
    ):
        super().__init__()
        self.model, self.fp16, self.skip_bad_batches = model, fp16, skip_bad_batches
        self.clips, self.groups = clipping_of(optimizer) is not None, {}
        self.add_optimizer(optimizer, lr_sch=lr_scheduler)
        if fp16:
            self.config.enable_amp(True)
        if fp16 or skip_bad_batches:
            # A scaler makes OneFlow look at the gradients. Without fp16 it leaves them as they are:
            # it is never raised, and OneFlow does not lower a scale below 1.
            scale, interval = (2.0**16, 2000) if fp16 else (1.0, 2**31 - 1)
            scaler = flow.amp.GradScaler(
                init_scale=scale, growth_factor=2.0, backoff_factor=0.5, growth_interval=interval
            )
            self.set_grad_scaler(scaler)
        self.unrolled_steps = 1
        if not graphs_accumulate_on(next(model.parameters()).placement.type):
            self.unrolled_steps = grad_acc_steps
        elif grad_acc_steps > 1:
            self.config.set_gradient_accumulation_steps(grad_acc_steps)
        if activation_checkpoint:
            for block in self.model.modules():
                if isinstance(block.to(nn.Module), TransformerLayer):
                    block.to(nn.graph.GraphModule).activation_checkpointing = True
        if zero_stage:
            self.config.enable_zero(True, stage=zero_stage)
        type(model).set_pipeline_stage_id(self.model)
        self.config.allow_fuse_add_to_output(True)
        self.config.allow_fuse_model_update_ops(True)
        self.config.allow_fuse_cast_scale(True)

    def _generate_config_proto(self):
        super()._generate_config_proto()
        if self.clips:
            self.groups = join_groups(self.config.proto.train_conf)

    def build_graph(self, *arguments, **options):
        built = super().build_graph(*arguments, **options)
        if self.clips:
            job = self._full_graph_proto
            restore_groups(job, self.groups)
            self._full_graph_proto = job
        return built

    def build(self, **inputs):
        micro_batches = split_batch(inputs, self.unrolled_steps)
        with mixed_precision(self.fp16):
            losses = [self.model(**micro_batch)["losses"] for micro_batch in micro_batches]
        loss = sum(losses[1:], losses[0]) / self.unrolled_steps  # a graph takes one backward
        # An infinite loss may have finite gradients: times NaN they are not. Times 1 is no change.
        target = loss * (loss.detach() * 0.0 + 1.0) if self.skip_bad_batches else loss
        target.backward()
        return {"losses": loss}


def evaluator_of(model, use_graph, fp16=False):
    """What evaluates a model: an `EvalGraph` where that is asked for and works, else itself."""
    device_type = next(model.parameters()).placement.type
    return EvalGraph(model, fp16) if use_graph and forward_graphs_work_on(device_type) else model


class EvalGraph(nn.Graph):
    """The forward pass in evaluation mode; `fp16` is automatic mixed precision (CUDA only)."""

    def __init__(self, model, fp16=False):
        super().__init__()
        self.model, self.fp16 = model, fp16
        if fp16:
            self.config.enable_amp(True)

    def build(self, **inputs):
        with mixed_precision(self.fp16):
            return self.model(**inputs)
