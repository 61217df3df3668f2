"""Floating-point operations of a forward pass, by formula; a multiply-add counts as two.

Letters: n tokens, P = 1536 values of a token.

torch's own counter misses fused attention on a CPU (it finds 90 of ViT-B's 115 GFLOP).
"""

from mgm_dali.clips.grid import token_grid
from mgm_dali.config import ModelConfig
from mgm_dali.models.patches import TOKEN_VALUES
from mgm_dali.models.vit import BACKBONES, MLP_RATIO

__all__ = ["forward_gflops"]


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
    size = BACKBONES[config.name]
    tokens = token_grid(config).num_tokens
    if not 0 < visible_tokens <= tokens:
        raise ValueError(f"visible_tokens: expected 1 to {tokens}, found {visible_tokens}")
    embedding = _linear(tokens, TOKEN_VALUES, size.width)
    encoder = size.depth * _block(visible_tokens, size.width)
    if visible_tokens == tokens:
        return (embedding + encoder + _linear(1, size.width, config.num_classes or 0)) / 1e9
    if decoded_tokens is None:
        decoded_tokens = tokens - visible_tokens
    if not 0 < decoded_tokens <= tokens - visible_tokens:
        most = tokens - visible_tokens
        raise ValueError(f"decoded_tokens: expected 1 to {most}, found {decoded_tokens}")
    bridge = _linear(visible_tokens, size.width, size.decoder_width)
    decoder = config.decoder_depth * _block(visible_tokens + decoded_tokens, size.decoder_width)
    head = _linear(decoded_tokens, size.decoder_width, TOKEN_VALUES)
    return (embedding + encoder + bridge + decoder + head) / 1e9


def _block(n: int, width: int) -> int:
    """Queries, keys, values and projection; scores and their use; the two-layer perceptron."""
    attention = 4 * _linear(n, width, width) + 2 * _linear(n, width, n)
    return attention + 2 * _linear(n, width, MLP_RATIO * width)


def _linear(n: int, inputs: int, outputs: int) -> int:
    return 2 * n * inputs * outputs
