"""The operators of one rank's training step, of either model, as modeling/ has them.

All is for one sample, as every tensor between operators is proportional to the samples. In
comments: L patches, K of them visible, T tokens with the class token, D width, P numbers of a
patch.
"""
from projects.MAE.parallel.layout import layers, tokens
from projects.MAE.parallel.step_operators import Step


def record_step(model, stage, layout, native, item_size=4, recompute=False):
    """The `Step` of a pipeline stage's rank for one sample, forward and backward.

    Args:
        model: a model's configuration.
        stage: 0 to layout.pipeline - 1.
        layout: a `Layout`.
        native: whether linear layers and attention are the operators of the native CPU kernels.
            Otherwise a layer's bias, GELU and residual are operators of their own, and attention
            is that of LiBai, which keeps its softmax.
        item_size: bytes of a number between matrix products.
        recompute: activation checkpointing.
    """
    step = Step(item_size, recompute)
    recorder = _Autoencoder if "decoder_depth" in model else _Classifier
    recorder(step, model, layout, native).record(stage)
    step.backward()
    return step


def patch_numbers(model):
    """Numbers of a patch: its pixels times the channels."""
    return model.patch_size**2 * model.in_chans


class _Recorder:
    """What both models share."""

    def __init__(self, step, model, layout, native):
        self.step, self.model, self.layout = step, model, layout
        self.native = native
        self.patches = (model.img_size // model.patch_size) ** 2
        self.patch_numbers = patch_numbers(model)

    def patchify(self):
        """An image in float32 -> patches [L, P]; reshape, permute and reshape again."""
        numbers = self.patches * self.patch_numbers
        images = self.step.tensor(numbers, item_size=4, has_gradient=False)
        x = self.step.run(numbers, images, view=True, item_size=4)
        x = self.step.run(numbers, x, item_size=4)
        return self.step.run(numbers, x, view=True, item_size=4)

    def patch_embed(self, patches, count):
        """`count` patches [K, P] -> [K, D]."""
        numbers = count * self.model.embed_dim
        weight = self.step.tensor(0)  # stands for something that has a gradient
        x = self.step.run(numbers, patches, weight, keeps=(patches,))
        return self.step.run(numbers, x, passes=True)

    def linear(self, x, tokens, outputs, parallel="data", residual=None, gelu=False):
        """`Linear` of modeling/layers.py; [T, inputs] -> [T, outputs]."""
        step, tensor = self.step, self.layout.tensor
        numbers = tokens * outputs / (tensor if parallel == "col" else 1)
        reduces = parallel == "col" and tensor > 1
        shared = parallel == "row" and tensor > 1
        others = () if residual is None else (residual,)
        if gelu and not self.native:
            x = step.run(x.size / step.item_size, x, keeps=(x,))
        if self.native and not shared:
            return step.run(numbers, x, *others, keeps=(x,), passes=others, reduces=reduces)
        x = step.run(numbers, x, keeps=(x,), reduces=reduces)
        if shared:
            x = step.all_reduce(x)
        x = step.run(numbers, x, passes=True)  # the bias
        return x if residual is None else step.run(numbers, x, residual, passes=True)

    def norm(self, x, fuses=False):
        return self.step.run(x.size / self.step.item_size, x, keeps=(x,), fuses=fuses)

    def block(self, x, layer, tokens, width, heads, drops=False, wanted=None, pool=False):
        """A transformer block, `TransformerLayer`; `wanted` of its tokens, or their mean."""
        step = self.step
        if self.layout.pipeline > 1 or step.recompute:
            x = step.run(tokens * width, x, view=True)  # a copy for what has a stage or runs again
        step.block = layer
        x = self.attention_branch(x, tokens, width, heads, drops)
        if wanted is not None:
            x, tokens = step.run(wanted * width, x), wanted
        x = (self.pooled_mlp_branch if pool else self.mlp_branch)(x, tokens, width, drops)
        step.block = None
        return x

    @property
    def one_operator(self):
        """Whether a branch of a block is a single operator."""
        return self.native and self.layout.tensor == 1

    def attention_branch(self, x, tokens, width, heads, drops):
        numbers = tokens * width
        if self.one_operator:
            return self.branch(x, 3 * numbers, numbers)
        attention = self.linear(self.norm(x, fuses=True), tokens, 3 * width, "col")
        attention = self.attention(attention, tokens, width, heads)
        if drops:
            return self.drop(x, self.linear(attention, tokens, width, "row"))
        return self.linear(attention, tokens, width, "row", residual=x)

    def mlp_branch(self, x, tokens, width, drops):
        inner = int(width * self.model.mlp_ratio)
        if self.one_operator:
            return self.branch(x, tokens * inner)
        hidden = self.linear(self.norm(x, fuses=True), tokens, inner, "col")
        if drops:
            return self.drop(x, self.linear(hidden, tokens, width, "row", gelu=True))
        return self.linear(hidden, tokens, width, "row", residual=x, gelu=True)

    def pooled_mlp_branch(self, x, tokens, width, drops):
        """[T, D] -> [D], the mean of the MLP's branch over the patches."""
        step, count = self.step, tokens - 1
        if not self.native:
            x = self.mlp_branch(x, tokens, width, drops)
            x = step.run(count * width, x)  # without the class token
            return step.run(width, x, item_size=4)
        inner = int(width * self.model.mlp_ratio)
        x = step.run(count * width, x)
        hidden = self.linear(self.norm(x, fuses=True), count, inner, "col")
        share = hidden.size / step.item_size
        hidden = step.run(share, hidden, keeps=(hidden,))  # GELU
        hidden = step.run(share / count, hidden)
        y = self.linear(hidden, 1, width, "row")
        mean = step.run(width, x)
        return self.drop(mean, y) if drops else step.run(width, mean, y, passes=True)

    def branch(self, x, *kept):
        """A branch of a block as one operator, which keeps so many numbers beside x."""
        return self.step.run(x.size / self.step.item_size, x, keeps=(x,), also=kept)

    def drop(self, x, branch):
        """The draws of stochastic depth, expanded to [T D], times the branch; plus x."""
        step, numbers = self.step, x.size / self.step.item_size
        draws = step.tensor(1, has_gradient=False)
        scale = step.run(numbers, draws)
        scale = step.run(numbers, scale, view=True)
        branch = step.run(numbers, branch, scale, keeps=(scale,))
        return step.run(numbers, x, branch, passes=True)

    def attention(self, qkv, tokens, width, heads):
        """[T, 3 D] -> [T, D], of the heads of this rank."""
        step = self.step
        numbers = tokens * width / self.layout.tensor
        if self.native:
            return step.run(numbers, qkv, keeps=(qkv,))
        x = step.run(3 * numbers, qkv, view=True)
        x = step.run(3 * numbers, x)  # heads before tokens
        query, key, value = (step.run(numbers, x) for _ in range(3))
        scores = heads / self.layout.tensor * tokens**2
        weights = step.run(scores, query, key, keeps=(query, key))
        weights = step.run(scores, weights, keeps=(None,))  # softmax
        x = step.run(numbers, weights, value, keeps=(weights, value))
        x = step.run(numbers, x)
        return step.run(numbers, x, view=True)

    def blocks_of(self, stage):
        return [i for i in range(layers(self.model)) if self.layout.stage_of(i) == stage]

    def received(self, tokens, width):
        """What comes from the stage before."""
        return self.step.tensor(tokens * width)


class _Classifier(_Recorder):
    def record(self, stage):
        model, blocks = self.model, self.blocks_of(stage)
        count, width = self.patches, model.embed_dim
        x = self.embed() if blocks[0] == 0 else self.received(1 + count, width)
        for i in blocks:
            drops = model.drop_path_rate > 0 and i > 0
            last = self.last_block() if i == model.depth - 1 else {}
            x = self.block(x, i, 1 + count, width, model.num_heads, drops, **last)
        if blocks[-1] == model.depth - 1:
            self.classify(x)

    def last_block(self):
        """What is wanted of it: the mean, or the class token."""
        return {"pool": True} if self.model.get("global_pool", True) else {"wanted": 1}

    def embed(self):
        step, width = self.step, self.model.embed_dim
        numbers = (1 + self.patches) * width
        x = self.patch_embed(self.patchify(), self.patches)
        x = step.run(numbers, x)  # with the class token
        return step.run(numbers, x, passes=True)  # plus positions

    def classify(self, x):
        step, classes = self.step, self.model.num_classes
        logits = self.linear(self.norm(x), 1, classes)
        log_softmax = step.run(classes, logits, keeps=(None,), item_size=4)
        step.run(classes, log_softmax, item_size=4)


class _Autoencoder(_Recorder):
    def record(self, stage):
        model, blocks = self.model, self.blocks_of(stage)
        seen, every = tokens(model)
        masked = every - seen
        width, narrow = model.embed_dim, model.decoder_embed_dim
        if blocks[0] == 0:
            x, target = self.embed(seen)
        elif blocks[0] <= model.depth:
            x = self.received(seen, width)
        else:
            x = self.received(every, narrow)
        for i in blocks:
            if i < model.depth:
                x = self.block(x, i, seen, width, model.num_heads)
                if i == model.depth - 1:
                    x = self.norm(x)
                continue
            if i == model.depth:
                x = self.decoder_embed(x, seen)
            wanted = masked if i == layers(model) - 1 else None
            x = self.block(x, i, every, narrow, model.decoder_num_heads, wanted=wanted)
        if blocks[-1] == layers(model) - 1:
            if blocks[0] > 0:
                numbers = masked * self.patch_numbers
                target = self.step.tensor(numbers, item_size=4, has_gradient=False)
            self.reconstruct(x, target, masked)

    def embed(self, seen):
        """Patches, their order, the visible ones embedded; and the target of the loss."""
        step, count = self.step, self.patches
        patches = self.patchify()
        noise = step.tensor(count, item_size=4, has_gradient=False)
        order = step.run(count, noise, item_size=8)
        step.run(count, order, item_size=8)  # back
        kept = step.run((seen - 1), order, item_size=8)
        visible = (seen - 1) * self.patch_numbers
        visible = step.run(visible, patches, kept, item_size=4)
        x = self.patch_embed(visible, seen - 1)
        numbers = (seen - 1) * self.model.embed_dim
        positions = step.run(numbers, kept)
        x = step.run(numbers, x, positions, passes=True)
        x = step.run(seen * self.model.embed_dim, x)  # with the class token
        masked = step.run(1 + count - seen, order, item_size=8)
        target = (1 + count - seen) * self.patch_numbers
        target = step.run(target, patches, masked, item_size=4)
        return x, self.normalised(target) if self.model.norm_pix_loss else target

    def normalised(self, patches):
        """`standardize_rows`; the means and scales expanded, as on a CPU."""
        step, numbers = self.step, patches.size / 4
        mean = step.run(numbers, patches, item_size=4)
        rows = step.run(numbers, patches, view=True, item_size=4)
        centred = step.run(numbers, rows, mean, item_size=4)
        square = step.run(numbers, centred, item_size=4)
        scale = step.run(numbers, square, item_size=4)
        result = step.run(numbers, centred, scale, item_size=4)
        return step.run(numbers, result, view=True, item_size=4)

    def decoder_embed(self, x, seen):
        """[1 + K, D] -> [1 + L, decoder D]."""
        step, count = self.step, self.patches
        width = self.model.decoder_embed_dim
        x = self.linear(x, seen, width)
        token = step.run((1 + count - seen) * width, step.tensor(0))
        token = step.run(token.size / step.item_size, token, view=True)
        visible = step.run((seen - 1) * width, x)
        patches = step.run(count * width, visible, token)
        patches = step.run(count * width, patches)  # undo the shuffle
        first = step.run(width, x)
        every = (1 + count) * width
        x = step.run(every, first, patches)
        return step.run(every, x, passes=True)  # plus positions

    def reconstruct(self, x, target, masked):
        """The prediction of each masked patch and the mean squared error."""
        step = self.step
        prediction = self.linear(self.norm(x), masked, self.patch_numbers)
        numbers = masked * self.patch_numbers
        difference = step.run(numbers, prediction, target, item_size=4, passes=True)
        # Both factors of a square are differentiated, and the gradients added.
        square = step.run(numbers, difference, difference, keeps=(difference,), item_size=4)
        step.run(0, square, item_size=4)
