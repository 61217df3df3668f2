"""The hidden rectangle: its sides, how they change over time, and how near each token is to it.

Letters: B clips, t slices, h w patches. Lengths are int64 in 256ths of a patch; centres and sides
are `[B, t, 2]`, (y, x) and (height, width).
"""

import math

import torch
from torch import Tensor

from mgm_dali.clips.grid import PatchGrid
from mgm_dali.config import MaskConfig
from mgm_dali.masking.centers import PATCH_UNITS, yx
from mgm_dali.masking.counts import hidden_per_slice
from mgm_dali.uniforms import scale_bits

__all__ = ["count_change", "jitter", "nearness", "shift_inside", "square_sides", "stretched"]


def square_sides(ratio: float, grid: PatchGrid) -> tuple[int, int]:
    """(height, width): the square of the wanted area, as in eq. 5; both even.

    At 0.75 it is 12.12, which is no whole number of patches: the nearest whole rectangle hides
    144 of 196 tokens, not 147. Tokens are ranked by distance instead, so the count is exact and the
    rectangle is repaired at its rim. A grid narrower than the square gets the longer rectangle.
    """
    area = ratio * grid.h * grid.w
    height = min(math.sqrt(area), grid.h)
    width = min(area / height, grid.w)
    height = min(area / width, grid.h)
    return 2 * round(height * PATCH_UNITS / 2), 2 * round(width * PATCH_UNITS / 2)


def stretched(sides: tuple[int, int], patches: Tensor) -> Tensor:
    """The sides in every slice when wider by `patches [B, t]`, and as much lower: `[B, t, 2]`."""
    by = patches * PATCH_UNITS
    return torch.stack(((sides[0] - by).clamp(min=2), sides[1] + by), -1)


def nearness(centers: Tensor, sides: Tensor, grid: PatchGrid) -> Tensor:
    """Minus each token's distance from the centre, counted in half sides: `[B, t, h, w]`.

    Of the distances along the two axes the larger (Chebyshev's). The unit is such that the rim is
    height * width / 2 away: what lies along one axis is multiplied with the side along the other,
    where a division would round.
    """
    along_y, along_x = (
        (_middles(size, centers) - centers[..., axis, None]).abs() * sides[..., 1 - axis, None]
        for axis, size in enumerate((grid.h, grid.w))
    )
    return torch.minimum(-along_y[..., None], -along_x[:, :, None])


def _middles(size: int, like: Tensor) -> Tensor:
    return torch.arange(size, device=like.device) * PATCH_UNITS + PATCH_UNITS // 2


def shift_inside(centers: Tensor, sides: Tensor, grid: PatchGrid) -> Tensor:
    """The nearest centres at which the rectangle is inside of the frame.

    Open in the paper. Literal clipping would hide less than half on average instead of 75%.
    """
    size = yx(grid.h, grid.w, centers.device) * PATCH_UNITS
    half = torch.minimum(sides, size) // 2
    return centers.maximum(half).minimum(size - half)


def jitter(bits: Tensor, grid: PatchGrid, config: MaskConfig) -> Tensor:
    """How many patches wider, and as much lower, each slice's rectangle is: `[B, t]` in -1, 0, 1.

    It follows from 24 random `bits [B, t]`.

    Eq. 7: w_t = w_{t-1} + s_x, h_t = h_{t-1} + s_y with steps that sum to zero. The paper leaves
    the steps open: ours are s_x = -s_y in {-1, 0, 1}, so that the area hardly changes, held within
    one patch of the square, and back at it in the first and the last slice. Eq. 5, of simulated
    motion, has one step for both sides; there too ours are opposite, as the count of hidden tokens
    must stay. None at all where a slice has not two tokens to hide and two to show.
    """
    hidden, places = hidden_per_slice(config.ratio, grid), grid.h * grid.w
    steps = scale_bits(bits, -1, 1)
    if not config.jitter or not 1 < hidden < places - 1:
        return torch.zeros_like(steps)
    widths = [torch.zeros_like(steps[:, 0])]
    for step in steps[:, 1:].unbind(1):
        widths.append((widths[-1] + step).clamp(-1, 1))
    widths[-1] = torch.zeros_like(widths[-1])
    return torch.stack(widths, 1)


def count_change(stretch: Tensor) -> Tensor:
    """Tokens each slice hides more or less, `[B, t]` from -1 to 1, zero in the sum of a row.

    (a + k)(a - k) = a^2 - k^2: a stretched rectangle is smaller by k^2, and what all slices lose
    together is spread over them evenly, the rest over the first ones.
    """
    lost = stretch.square()
    share = lost.sum(1, keepdim=True)
    slices = torch.arange(lost.shape[1], device=lost.device)
    return share // len(slices) + (slices < share % len(slices)) - lost
