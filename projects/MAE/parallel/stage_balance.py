"""How a model's transformer blocks are shared out over pipeline stages."""


def block_costs(model, encoder_tokens, decoder_tokens):
    """Multiplications of each transformer block for one sample, encoder blocks first.

    Embeddings and heads stay with their neighbours and are a few percent: they are not counted.

    Args:
        model: a model's configuration.
        encoder_tokens, decoder_tokens: tokens a block of each kind sees.
    """

    def cost(tokens, width):
        # Query, key, value and output take 4 width^2 a token, the MLP 2 mlp_ratio width^2, the
        # scores and their sum of values 2 tokens width.
        return tokens * width * ((4 + 2 * model.mlp_ratio) * width + 2 * tokens)

    costs = [cost(encoder_tokens, model.embed_dim)] * model.depth
    if "decoder_depth" in model:
        costs += [cost(decoder_tokens, model.decoder_embed_dim)] * model.decoder_depth
    return costs


def balance(costs, stages):
    """Share out consecutive blocks so that the dearest stage is as cheap as can be.

    Example::

        balance([3, 3, 1, 1, 1, 1], 2)  # [0, 0, 1, 1, 1, 1]

    Args:
        costs: of each block, in order.
        stages: how many; at most len(costs).

    Returns:
        The stage of each block, rising from 0 to stages - 1; every stage has a block.
    """
    count = len(costs)
    # dearest[s][n]: the least possible cost of the dearest of s stages that share the first n
    # blocks; start[s][n]: where the last of them begins.
    dearest = [[0.0] + [float("inf")] * count]
    start = [[0] * (count + 1)]
    for s in range(1, stages + 1):
        dearest.append([float("inf")] * (count + 1))
        start.append([0] * (count + 1))
        for n in range(s, count + 1):
            for first in range(s - 1, n):
                value = max(dearest[s - 1][first], sum(costs[first:n]))
                if value < dearest[s][n]:
                    dearest[s][n], start[s][n] = value, first
    result, end = [0] * count, count
    for s in range(stages, 0, -1):
        first = start[s][end]
        result[first:end] = [s - 1] * (end - first)
        end = first
    return result
