"""The static graphs of training and evaluation."""
import oneflow as flow
from oneflow import nn

from projects.MAE.modeling.layers import TransformerLayer


class TrainGraph(nn.Graph):
    """One optimizer step: forward and backward of every micro-batch, then the update.

    LiBai 0.1.1's GraphBase reads `module.origin`, which OneFlow 0.9 no longer has.

    Args:
        model: returns {"losses": scalar} in training mode.
        optimizer, lr_scheduler: OneFlow's; the graph compiles both into itself.
        fp16: automatic mixed precision with a dynamic loss scale (CUDA only).
        activation_checkpoint: recompute the activations of each block in the backward pass.
        grad_acc_steps: micro-batches a step; the graph splits its input into as many.
        zero_stage: 0 for none, else the stage of ZeRO's redundancy-free optimizer (CUDA only).
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
    ):
        super().__init__()
        self.model = model
        self.add_optimizer(optimizer, lr_sch=lr_scheduler)
        if fp16:
            self.config.enable_amp(True)
            self.set_grad_scaler(
                flow.amp.GradScaler(
                    init_scale=2.0**16, growth_factor=2.0, backoff_factor=0.5, growth_interval=2000
                )
            )
        if grad_acc_steps > 1:
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

    def build(self, **inputs):
        losses = self.model(**inputs)
        losses["losses"].backward()
        return losses


class EvalGraph(nn.Graph):
    """The forward pass in evaluation mode."""

    def __init__(self, model):
        super().__init__()
        self.model = model

    def build(self, **inputs):
        return self.model(**inputs)
