"""Which pipeline stage each part of a model runs in."""
from libai.utils import distributed as dist
from oneflow import nn

from projects.MAE.modeling.layers import TransformerLayer


def set_stages(graph_model):
    """Give every transformer block of a graph's model its pipeline stage.

    A block carries its `layer_idx`; `train.dist` decides the stage of each index. Parts outside
    the blocks run where their parameters are placed.

    Args:
        graph_model: the model as an attribute of an `nn.Graph`.
    """
    dist_util = dist.get_dist_util()
    if dist_util.pipeline_parallel_size == 1:
        return  # a graph copies the inputs of whatever has a stage
    for block in graph_model.modules():
        module = block.to(nn.Module)
        if isinstance(module, TransformerLayer):
            block.to(nn.graph.GraphModule).set_stage(
                dist_util.get_layer_stage_id(module.layer_idx),
                dist.get_layer_placement(module.layer_idx),
            )
