"""Multi-head self-attention.

Letters: B clips, N tokens, Q queries, D width, d width of a head.
"""

import torch
from torch import Tensor, nn

from mgm_dali.models.kernels import ATTENTION_KERNELS, Kernel, attend
from mgm_dali.models.linear import Linear, linear

__all__ = ["Attention", "use_kernel"]


class Attention(nn.Module):
    """Multi-head self-attention with a bias on queries and values only (BEiT, section 2.3).

    A bias on keys would add the same number to all scores of a query, which softmax ignores.
    """

    def __init__(self, width: int, num_heads: int) -> None:
        super().__init__()
        self.num_heads = num_heads
        self.kernel: Kernel = attend
        self.qkv = Linear(width, 3 * width, bias=False)
        self.q_bias = nn.Parameter(torch.zeros(width))
        self.v_bias = nn.Parameter(torch.zeros(width))
        self.proj = Linear(width, width)

    def forward(
        self, x: Tensor, num_queries: int | None = None, allowed: Tensor | None = None
    ) -> Tensor:
        """`[B, N, D]` to `[B, Q, D]`: the last `num_queries` tokens look at all N; None: all do.

        `allowed`, bool `[B, Q, N]`, says which tokens a query looks at; None: all.
        """
        width = x.shape[-1]
        bias = torch.cat([self.q_bias, torch.zeros_like(self.v_bias), self.v_bias])
        if num_queries is None:
            q, k, v = linear(x, self.qkv.weight, bias).chunk(3, dim=-1)
        else:
            q = linear(x[:, -num_queries:], self.qkv.weight[:width], bias[:width])
            k, v = linear(x, self.qkv.weight[width:], bias[width:]).chunk(2, dim=-1)
        each_head = None if allowed is None else allowed.unsqueeze(1)
        mixed = self.kernel(self._split(q), self._split(k), self._split(v), each_head)
        projected: Tensor = self.proj(mixed.transpose(1, 2).flatten(2))
        return projected

    def _split(self, x: Tensor) -> Tensor:
        """`[B, N, D]` to `[B, heads, N, d]`."""
        return x.reshape(*x.shape[:2], self.num_heads, -1).transpose(1, 2)


def use_kernel(network: nn.Module, name: str) -> None:
    """Lets all attention in a network be computed by the kernel of this name."""
    for module in network.modules():
        if isinstance(module, Attention):
            module.kernel = ATTENTION_KERNELS[name]
