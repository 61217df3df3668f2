"""Linear layers, and the two-layer perceptron made of them.

Letters: N tokens, D width.
"""

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from mgm_dali.models.kernels import CPU_MULTIPLIES_BFLOAT16

__all__ = ["Linear", "Mlp", "linear"]


class Linear(nn.Linear):
    """torch's, but for bfloat16 on a CPU: see `linear`."""

    def forward(self, x: Tensor) -> Tensor:
        """`[..., D]` to `[..., outputs]`."""
        return linear(x, self.weight, self.bias)


class Mlp(nn.Module):
    """The perceptron of a transformer block, with exact GELU; parameters are named as timm's."""

    def __init__(self, width: int, hidden_width: int) -> None:
        super().__init__()
        self.fc1 = Linear(width, hidden_width)
        self.fc2 = Linear(hidden_width, width)

    def forward(self, x: Tensor) -> Tensor:
        """`[B, N, D]` to `[B, N, D]`."""
        x = self.fc2(F.gelu(self.fc1(x)))
        return x


def linear(x: Tensor, weight: Tensor, bias: Tensor | None = None) -> Tensor:
    """A linear map of the last dimension, in the dtype of x.

    A CPU without instructions for bfloat16 computes its products in float32: torch would take ten
    times as long forwards, and fifty times backwards.
    """
    if x.device.type == "cpu" and x.dtype == torch.bfloat16 and not CPU_MULTIPLIES_BFLOAT16:
        wide = None if bias is None else bias.float()
        return F.linear(x.float(), weight.float(), wide).bfloat16()
    return F.linear(x, weight, bias)
