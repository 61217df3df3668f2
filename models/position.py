"""The fixed position table of VideoMAE: a 1-D sinusoid over the flattened token index.

Letters: N = t * h * w tokens, D width.
"""

import torch
from torch import Tensor

__all__ = ["sinusoid_table"]


def sinusoid_table(num_tokens: int, width: int) -> Tensor:
    """Position codes `[N, D]` float32: `table[n, j]` is sin (j even) or cos (j odd) of the angle.

    The angle is `n / 10000 ** (2 * (j // 2) / D)` (Vaswani et al. 2017, section 3.5). The index n
    runs over the whole clip in (t, h, w) order, so weights trained on one grid read another grid's
    positions wrongly. Angles are computed in float64: in float32 those of n = 1567 are off by 1e-4.
    """
    index = torch.arange(num_tokens, dtype=torch.float64).unsqueeze(1)
    column = torch.arange(width)
    angle = index / 10000.0 ** (2 * (column // 2).double() / width)
    return torch.where(column % 2 == 0, angle.sin(), angle.cos()).float()
