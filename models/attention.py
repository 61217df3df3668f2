"""Multi-head self-attention, and which of torch's kernels computes it.

Letters: B clips, N tokens, Q queries, D width, d width of a head.
"""

from pathlib import Path

import torch
import torch.nn.functional as F
from torch import Tensor, nn

__all__ = ["CPU_MULTIPLIES_BFLOAT16", "Attention", "attend"]


def _cpu_flags() -> set[str]:
    try:
        return set(Path("/proc/cpuinfo").read_text(encoding="utf-8").split())
    except OSError:
        return set()


CPU_MULTIPLIES_BFLOAT16 = bool(_cpu_flags() & {"avx512_bf16", "amx_bf16", "bf16"})
"""Whether this processor has instructions for it; without them bfloat16 is slower than float32."""


class Attention(nn.Module):
    """Multi-head self-attention with a bias on queries and values only (BEiT, section 2.3).

    A bias on keys would add the same number to all scores of a query, which softmax ignores.
    """

    def __init__(self, width: int, num_heads: int) -> None:
        super().__init__()
        self.num_heads = num_heads
        self.qkv = nn.Linear(width, 3 * width, bias=False)
        self.q_bias = nn.Parameter(torch.zeros(width))
        self.v_bias = nn.Parameter(torch.zeros(width))
        self.proj = nn.Linear(width, width)

    def forward(self, x: Tensor, num_queries: int | None = None) -> Tensor:
        """`[B, N, D]` to `[B, Q, D]`: the last `num_queries` tokens look at all N; None: all do."""
        width = x.shape[-1]
        bias = torch.cat([self.q_bias, torch.zeros_like(self.v_bias), self.v_bias])
        if num_queries is None:
            q, k, v = F.linear(x, self.qkv.weight, bias).chunk(3, dim=-1)
        else:
            q = F.linear(x[:, -num_queries:], self.qkv.weight[:width], bias[:width])
            k, v = F.linear(x, self.qkv.weight[width:], bias[width:]).chunk(2, dim=-1)
        mixed = attend(self._split(q), self._split(k), self._split(v))
        projected: Tensor = self.proj(mixed.transpose(1, 2).flatten(2))
        return projected

    def _split(self, x: Tensor) -> Tensor:
        """`[B, N, D]` to `[B, heads, N, d]`."""
        return x.reshape(*x.shape[:2], self.num_heads, -1).transpose(1, 2)


def attend(q: Tensor, k: Tensor, v: Tensor) -> Tensor:
    """Softmax attention: `[B, heads, Q, d]`, `[B, heads, N, d]` twice, to `[B, heads, Q, d]`.

    torch's fused kernel is the fastest but for bfloat16 on a CPU. With instructions for it, two
    plain products save a third of the training step; without, the kernel does the same work in
    float32 in a third of the time or less.
    """
    if q.device.type == "cpu" and q.dtype == torch.bfloat16:
        if not CPU_MULTIPLIES_BFLOAT16:
            return F.scaled_dot_product_attention(q.float(), k.float(), v.float()).bfloat16()
        scores = (q * q.shape[-1] ** -0.5) @ k.transpose(-2, -1)
        mixed: Tensor = scores.softmax(dim=-1) @ v
        return mixed
    return F.scaled_dot_product_attention(q, k, v)
