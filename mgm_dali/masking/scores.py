"""The rules: each gives every token a score, and each slice hides its highest.

Letters: B clips, T frames, t slices, h w patches. A rule returns scores `[B, t, h, w]` float32 and
how many tokens each slice hides more than the common count: `[B, t]` int64, or None for nowhere.
"""

import math
from dataclasses import dataclass

import torch
from torch import Tensor

from mgm_dali.clips.grid import PatchGrid
from mgm_dali.config import MaskConfig
from mgm_dali.masking.centers import hold_last, simulated_centers, strongest_motion
from mgm_dali.uniforms import uniform_integers, uniforms

__all__ = ["MaskInputs", "motion_guided", "random_tokens", "simulated_motion", "tube"]

SCORE_STREAM, JITTER_STREAM = 3, 4

Scores = tuple[Tensor, Tensor | None]


@dataclass(frozen=True)
class MaskInputs:
    """What a rule may look at."""

    motion: Tensor
    """`[B, T, H/8, W/8, 2]` float32 pixels."""
    motion_valid: Tensor
    """`[B, T]` bool."""
    seed: Tensor
    """`[B]` int64."""
    grid: PatchGrid
    config: MaskConfig


def random_tokens(inputs: MaskInputs) -> Scores:
    """Independent noise for every token (ST-MAE, Feichtenhofer et al. 2022)."""
    t, h, w = inputs.grid
    return uniforms(inputs.seed, SCORE_STREAM, t * h * w).view(-1, t, h, w), None


def tube(inputs: MaskInputs) -> Scores:
    """Noise for every place, the same in all slices (VideoMAE, Tong et al. 2022)."""
    t, h, w = inputs.grid
    noise = uniforms(inputs.seed, SCORE_STREAM, h * w).view(-1, 1, h, w)
    return noise.expand(-1, t, h, w), None


def simulated_motion(inputs: MaskInputs) -> Scores:
    """A rectangle that moves at random over the clip (SMM dense, eq. 5)."""
    sides = _sides(inputs).expand(len(inputs.seed), inputs.grid.t, 2)
    return _rectangle(_simulated(inputs), sides, inputs.grid), None


def motion_guided(inputs: MaskInputs) -> Scores:
    """A rectangle that follows the strongest motion (MGM dense, eq. 7).

    Eq. 7 prints y_t/2 for the rectangle's upper edge; it must be h_t/2.
    """
    grid, sides = inputs.grid, _sides(inputs)
    centers, known = strongest_motion(inputs.motion, inputs.motion_valid, grid)
    centers = hold_last(centers, known, otherwise=_simulated(inputs))
    stretch = _jitter(inputs)
    sides = sides + torch.stack((-stretch, stretch), -1)
    if inputs.config.border == "shift":
        # Literal clipping at the border would hide 45% on average instead of 75%.
        size = torch.tensor((grid.h, grid.w), dtype=torch.float32, device=centers.device)
        half = torch.minimum(sides, size) / 2
        centers = torch.minimum(torch.maximum(centers, half), size - half)
    return _rectangle(centers, sides, grid), _count_change(stretch)


def _sides(inputs: MaskInputs) -> Tensor:
    """(height, width) in patches `[2]`: the square of the wanted area, as in eq. 5.

    At 0.75 it is 12.12, which is no whole number of patches: the nearest whole rectangle hides
    144 of 196 tokens, not 147. We rank tokens by distance instead, so the count is exact and the
    rectangle is repaired at its rim. A grid narrower than the square gets the longer rectangle.
    """
    _, h, w = inputs.grid
    area = inputs.config.ratio * h * w
    height = min(math.sqrt(area), h)
    width = min(area / height, w)
    height = min(area / width, h)
    return torch.tensor((height, width), dtype=torch.float32, device=inputs.seed.device)


def _simulated(inputs: MaskInputs) -> Tensor:
    """Random moving centres whose rectangle stays inside the frame, unless the border grows it."""
    margin = _sides(inputs) / 2 if inputs.config.border == "shift" else _sides(inputs) * 0
    return simulated_centers(inputs.seed, inputs.grid, margin)


def _rectangle(centers: Tensor, sides: Tensor, grid: PatchGrid) -> Tensor:
    """Minus the distance from the centre in half sides, `[B, t, h, w]`: -1 is the rectangle's rim.

    `centers` and `sides` are `[B, t, 2]` (y, x). Near a border that does not shift it, the
    rectangle loses what the frame cuts off and grows on the other sides until its count is full.
    """
    y = torch.arange(grid.h, device=centers.device) + 0.5
    x = torch.arange(grid.w, device=centers.device) + 0.5
    half = sides[..., None, None] / 2
    distance_y = (y[:, None] - centers[..., 0, None, None]).abs() / half[:, :, 0]
    distance_x = (x - centers[..., 1, None, None]).abs() / half[:, :, 1]
    return -torch.maximum(distance_y, distance_x)


def _jitter(inputs: MaskInputs) -> Tensor:
    """How much wider, and as much lower, the rectangle of each slice is: `[B, t]` in {-1, 0, 1}.

    Eq. 6 and 7: w_t = w_{t-1} + s_x, h_t = h_{t-1} + s_y with steps that sum to zero. The paper
    leaves the steps open: ours are s_x = -s_y in {-1, 0, 1}, so that the area hardly changes,
    held within one patch of the square, and back at it in the first and the last slice.
    """
    t = inputs.grid.t
    if not inputs.config.jitter:
        return torch.zeros(len(inputs.seed), t, device=inputs.seed.device)
    steps = uniform_integers(inputs.seed, JITTER_STREAM, -1, 1, t)
    widths = [torch.zeros_like(steps[:, 0])]
    for step in steps[:, 1:].unbind(1):
        widths.append((widths[-1] + step).clamp(-1, 1))
    widths[-1] = torch.zeros_like(widths[-1])
    return torch.stack(widths, 1).float()


def _count_change(stretch: Tensor) -> Tensor:
    """Tokens each slice hides more or less, `[B, t]` int64, zero in the sum of a row.

    (a + k)(a - k) = a^2 - k^2: a stretched rectangle is smaller by k^2, and what all slices lose
    together is spread over them evenly, the rest over the first ones.
    """
    lost = stretch.long().square()
    share = lost.sum(1, keepdim=True)
    slices = torch.arange(lost.shape[1], device=lost.device)
    return share // len(slices) + (slices < share % len(slices)) - lost
