"""The ViT encoder of both models (Dosovitskiy et al., arXiv 2010.11929): patches, tokens, blocks."""
import oneflow as flow
from libai.utils import distributed as dist
from oneflow import nn

from projects.MAE.modeling.global_tensors import parameter, repeat_token
from projects.MAE.modeling.layer_kinds import layer_kinds
from projects.MAE.modeling.layers import TransformerLayer
from projects.MAE.modeling.patches import PatchEmbed, patchify
from projects.MAE.modeling.sizes import check_sizes


class ViTEncoder(nn.Module):
    """From images to tokens, before a final norm.

    Args:
        img_size, patch_size: pixels along a side of the square input, and of a patch.
        in_chans: channels of the input.
        embed_dim, depth, num_heads: width D, blocks and attention heads.
        mlp_ratio: hidden width of a block's MLP over D.
        drop_path_rate: stochastic depth of the last block; it grows linearly from 0.
        trains_pos_embed: whether the position embeddings are trained.
    """

    def __init__(
        self,
        img_size,
        patch_size,
        in_chans,
        embed_dim,
        depth,
        num_heads,
        mlp_ratio,
        drop_path_rate=0.0,
        trains_pos_embed=True,
    ):
        super().__init__()
        check_sizes(img_size, patch_size, embed_dim, num_heads)
        self.patch_size, self.in_chans = patch_size, in_chans
        self.grid_size = img_size // patch_size
        self.num_patches = self.grid_size**2
        self.num_heads, self.depth = num_heads, depth
        self.layers = layer_kinds()

        self.patch_embed = PatchEmbed(patch_size, in_chans, embed_dim, layer_idx=0)
        self.cls_token = parameter((1, 1, embed_dim), layer_idx=0)
        self.pos_embed = parameter(
            (1, 1 + self.num_patches, embed_dim), layer_idx=0, requires_grad=trains_pos_embed
        )
        self.blocks = nn.ModuleList(
            self.layers.TransformerLayer(
                embed_dim,
                num_heads,
                mlp_ratio,
                eps=1e-6,
                drop_path_prob=drop_path_rate * i / max(depth - 1, 1),
                layer_idx=i,
            )
            for i in range(depth)
        )

    def patchify(self, images):
        """[N, C, H, W] -> [N, L, patch_size**2 * C], pixels in (row, column, channel) order."""
        return patchify(images, self.patch_size)

    def embed(self, patches):
        """All patches [N, L, P] -> tokens [N, 1 + L, D], the class token first."""
        x = self.patch_embed(patches)
        return flow.cat([repeat_token(self.cls_token, like=x, count=1), x], dim=1) + self.pos_embed

    def embed_visible(self, patches, ids_keep):
        """Patches [N, L, P] and which are visible, int64 [N, K] -> tokens [N, 1 + K, D].

        What is not visible is not embedded.
        """
        x = self.patch_embed(flow._C.batch_gather(patches, ids_keep))
        x = x + flow._C.gather(self.pos_embed[0, 1:], ids_keep, axis=0)
        cls_token = repeat_token(self.cls_token + self.pos_embed[:, :1], like=x, count=1)
        return flow.cat([cls_token, x], dim=1)

    def forward_blocks(self, x, drop_path_noise=None, blocks=None, **wanted):
        """Tokens [N, M, D] through the blocks.

        Args:
            drop_path_noise: float32 [N, 2 * depth] in [0, 1), the draws of stochastic depth.
            blocks: how many of the blocks to run; None for all.
            wanted: what alone is wanted of the last block, see `TransformerLayer`.
        """
        for i, block in enumerate(self.blocks):
            if i == blocks:
                break
            noise = None if drop_path_noise is None else drop_path_noise[:, 2 * i : 2 * i + 2]
            x = block(x, noise, **(wanted if i == self.depth - 1 else {}))
        return x

    @staticmethod
    def set_pipeline_stage_id(model):
        """Give each transformer block of a graph's model the pipeline stage of its `layer_idx`.

        Parts outside the blocks run where their parameters are placed. LiBai's graphs call this.
        """
        dist_util = dist.get_dist_util()
        if dist_util.pipeline_parallel_size == 1:
            return  # a graph copies the inputs of whatever has a stage
        for block in model.modules():
            module = block.to(nn.Module)
            if isinstance(module, TransformerLayer):
                stage = dist_util.get_layer_stage_id(module.layer_idx)
                placement = dist.get_layer_placement(module.layer_idx)
                block.to(nn.graph.GraphModule).set_stage(stage, placement)
