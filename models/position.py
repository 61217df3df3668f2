"""Positions of tokens: VideoMAE's fixed table, TimeSformer's learned ones, and other grids.

Letters: t slices of h x w tokens, N = t * h * w tokens, D width.
"""

import torch
import torch.nn.functional as F
from torch import Tensor

from mgm_dali.clips.grid import PatchGrid
from mgm_dali.config import PATCH_PIXELS, TUBELET_FRAMES, ModelConfig

__all__ = ["position_grid", "sinusoid_table", "space_time_table", "stretch_table"]


def position_grid(config: ModelConfig) -> PatchGrid:
    """The grid that the positions are those of; another than the clip's own is stretched to it."""
    frames, size = config.position_clip
    return PatchGrid(frames // TUBELET_FRAMES, size // PATCH_PIXELS, size // PATCH_PIXELS)


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


def space_time_table(pos_embed: Tensor, time_embed: Tensor) -> Tensor:
    """`[1, h * w, D]` and `[1, t, D]` to `[N, D]`: each token has its place's code and its time's.

    (TimeSformer, Bertasius et al., ICML 2021, section 3.)
    """
    return (time_embed.transpose(0, 1) + pos_embed).flatten(0, 1)


def stretch_table(table: Tensor, source: PatchGrid, target: PatchGrid) -> Tensor:
    """`[N, D]` of one grid to another's: bicubic in space, linear in time.

    So a token's code lies between those of the tokens that were at its place in the clip. The same
    grid gives the table itself.
    """
    if source == target:
        return table
    codes = table.view(*source, -1).permute(0, 3, 1, 2)  # [t D h w]
    if source[1:] != target[1:]:
        codes = F.interpolate(codes, target[1:], mode="bicubic", antialias=True)
    if source.t != target.t:
        lines = codes.flatten(1).T.unsqueeze(0)  # [1, D h w, t]
        lines = F.interpolate(lines, target.t, mode="linear")
        codes = lines[0].T.reshape(target.t, *codes.shape[1:])
    stretched: Tensor = codes.permute(0, 2, 3, 1).reshape(target.num_tokens, -1)
    return stretched
