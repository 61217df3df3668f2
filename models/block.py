"""The block that transformers are made of, and rows of them.

Letters: B clips, N tokens, Q queries, D width.
"""

from collections.abc import Callable
from typing import Any

import torch
from timm.layers import DropPath
from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint

from mgm_dali.models.attention import Attention
from mgm_dali.models.linear import Mlp

__all__ = ["MLP_RATIO", "NORM_EPSILON", "Block", "make_blocks", "run_block"]

NORM_EPSILON = 1e-6
MLP_RATIO = 4


class Block(nn.Module):
    """Pre-norm transformer block: attention, then a two-layer perceptron with exact GELU."""

    def __init__(self, width: int, num_heads: int, drop_path: float = 0.0) -> None:
        super().__init__()
        self.norm1 = nn.LayerNorm(width, eps=NORM_EPSILON)
        self.attn = Attention(width, num_heads)
        self.norm2 = nn.LayerNorm(width, eps=NORM_EPSILON)
        self.mlp = Mlp(width, MLP_RATIO * width)
        self.drop_path = DropPath(drop_path) if drop_path > 0 else nn.Identity()

    def forward(self, x: Tensor, num_queries: int | None = None) -> Tensor:
        """`[B, N, D]` to `[B, N, D]`, or to `[B, Q, D]`: only the last `num_queries` tokens."""
        tail: Tensor = x if num_queries is None else x[:, -num_queries:]
        tail = tail + self.drop_path(self.attn(self.norm1(x), num_queries))
        tail = tail + self.drop_path(self.mlp(self.norm2(tail)))
        return tail


def make_blocks(
    depth: int,
    width: int,
    num_heads: int,
    drop_path: float,
    block: Callable[[int, int, float], nn.Module] = Block,
) -> nn.ModuleList:
    """Blocks whose stochastic depth rises linearly from 0 in the first to `drop_path`."""
    rates = [drop_path * index / max(depth - 1, 1) for index in range(depth)]
    return nn.ModuleList(block(width, num_heads, rate) for rate in rates)


def run_block(block: nn.Module, x: Tensor, *others: Any, checkpointed: bool) -> Tensor:
    """What the block gives; if checkpointed, only its input is kept for the backward pass."""
    if checkpointed and torch.is_grad_enabled():
        result: Tensor = checkpoint(block, x, *others, use_reentrant=False)
    else:
        result = block(x, *others)
    return result
