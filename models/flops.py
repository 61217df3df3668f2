"""What a forward pass costs, by formula: floating-point operations (a multiply-add counts as two).

Letters: n tokens, P = 1536 values of a token.

torch's own counter misses fused attention on a CPU (it finds 90 of ViT-B's 115 GFLOP).
"""

from mgm_dali.clips.grid import token_grid
from mgm_dali.config import ModelConfig
from mgm_dali.models.block import MLP_RATIO
from mgm_dali.models.kernels import AttentionShape
from mgm_dali.models.patches import TOKEN_VALUES
from mgm_dali.models.vit import BACKBONES

__all__ = ["attention_shapes", "forward_gflops"]


def attention_shapes(
    config: ModelConfig, batch: int, visible_tokens: int, decoded_tokens: int | None = None
) -> list[AttentionShape]:
    """The attentions of a forward pass over `batch` clips; none of a decoder with all visible."""
    size, grid = BACKBONES[config.name], token_grid(config)
    heads, width = size.num_heads, size.width // size.num_heads
    if visible_tokens == grid.num_tokens:
        if config.attention == "joint":
            return [AttentionShape(size.depth, batch, heads, grid.num_tokens, width)]
        places = grid.h * grid.w
        return [
            AttentionShape(size.depth, batch * places, heads, grid.t, width),
            AttentionShape(size.depth, batch * grid.t, heads, places, width),
        ]
    decoded = _decoded(visible_tokens, decoded_tokens, grid.num_tokens)
    passes = 2 if config.attention == "divided" else 1
    decoder_width = size.decoder_width // size.decoder_heads
    tokens = visible_tokens + decoded
    return [
        AttentionShape(passes * size.depth, batch, heads, visible_tokens, width),
        AttentionShape(config.decoder_depth, batch, size.decoder_heads, tokens, decoder_width),
    ]


def forward_gflops(
    config: ModelConfig, visible_tokens: int, decoded_tokens: int | None = None
) -> float:
    """GFLOP of one clip's forward pass; a training step is three times as much.

    With some tokens hidden, of the autoencoder as VideoMAE computes it: all tokens embedded, the
    last decoder block in full. Ours skips both, so its rate counted with this number is the one
    that an implementation without these savings would need. `decoded_tokens` are the hidden ones
    that are predicted, by default all. With all visible, of the classifier. Raises ValueError for
    fewer than 1 or more than all tokens.
    """
    size, grid = BACKBONES[config.name], token_grid(config)
    tokens = grid.num_tokens
    if not 0 < visible_tokens <= tokens:
        raise ValueError(f"visible_tokens: expected 1 to {tokens}, found {visible_tokens}")
    embedding = _linear(tokens, TOKEN_VALUES, size.width)
    blocks = size.depth * _linear_layers(visible_tokens, size.width)
    if config.attention == "divided":  # one more attention, and `temporal_fc`
        blocks += size.depth * 5 * _linear(visible_tokens, size.width, size.width)
    if visible_tokens == tokens:
        head = _linear(1, size.width, config.num_classes or 0)
        attention = sum(map(_mixing, attention_shapes(config, 1, visible_tokens)))
        return (embedding + blocks + attention + head) / 1e9
    decoded = _decoded(visible_tokens, decoded_tokens, tokens)
    attention = sum(map(_mixing, attention_shapes(config, 1, visible_tokens, decoded)))
    bridge = _linear(visible_tokens, size.width, size.decoder_width)
    blocks += config.decoder_depth * _linear_layers(visible_tokens + decoded, size.decoder_width)
    head = _linear(decoded, size.decoder_width, TOKEN_VALUES)
    return (embedding + blocks + attention + bridge + head) / 1e9


def _decoded(visible_tokens: int, decoded_tokens: int | None, tokens: int) -> int:
    hidden = tokens - visible_tokens
    decoded = hidden if decoded_tokens is None else decoded_tokens
    if not 0 < decoded <= hidden:
        raise ValueError(f"decoded_tokens: expected 1 to {hidden}, found {decoded}")
    return decoded


def _linear_layers(n: int, width: int) -> int:
    """Of a block: queries, keys, values and projection; the two-layer perceptron."""
    return 4 * _linear(n, width, width) + 2 * _linear(n, width, MLP_RATIO * width)


def _mixing(shape: AttentionShape) -> int:
    """Scores and their use. Where a mask drops tokens, all pairs are computed, allowed or not."""
    heads = shape.times * shape.batch * shape.heads
    return heads * 2 * _linear(shape.tokens, shape.width, shape.tokens)


def _linear(n: int, inputs: int, outputs: int) -> int:
    return 2 * n * inputs * outputs
