"""The rules: each gives every token a score, and each slice hides its highest.

Letters: B clips, T frames, t slices, h w patches. A rule returns scores `[B, t, h, w]`, whole
numbers below 2^32 in any dtype, and how many tokens each slice hides more than the common count:
`[B, t]` from -1 to 1 with a sum of zero, or None for nowhere.
"""

from dataclasses import dataclass

import torch
from torch import Tensor

from mgm_dali.clips.grid import PatchGrid
from mgm_dali.config import MaskConfig
from mgm_dali.masking import strength
from mgm_dali.masking.centers import (
    PATCH_UNITS,
    hold_last,
    middle_of_strongest,
    simulated_centers,
    strongest,
)
from mgm_dali.masking.draws import Draws
from mgm_dali.masking.rectangle import (
    count_change,
    jitter,
    nearness,
    shift_inside,
    square_sides,
    stretched,
)
from mgm_dali.uniforms import BITS

__all__ = [
    "MaskInputs",
    "Scores",
    "block",
    "motion_guided",
    "motion_guided_sparse",
    "random_tokens",
    "simulated_motion",
    "simulated_motion_sparse",
    "tube",
]

Scores = tuple[Tensor, Tensor | None]


@dataclass(frozen=True)
class MaskInputs:
    """What a rule may look at."""

    motion: Tensor
    """`[B, T, H/8, W/8, 2]` float32 pixels."""
    motion_valid: Tensor
    """`[B, T]` bool."""
    motion_known: Tensor
    """`[B, T, H/8, W/8]` bool."""
    draws: Draws
    grid: PatchGrid
    config: MaskConfig

    @property
    def known(self) -> Tensor:
        """`motion_known`, whatever it says of frames that have no vectors."""
        return self.motion_known & self.motion_valid[:, :, None, None]


def random_tokens(inputs: MaskInputs) -> Scores:
    """Independent noise for every token (ST-MAE, Feichtenhofer et al. 2022)."""
    t, h, w = inputs.grid
    return inputs.draws.noise(t * h * w).view(-1, t, h, w), None


def tube(inputs: MaskInputs) -> Scores:
    """Noise for every place, the same in all slices (VideoMAE, Tong et al. 2022)."""
    t, h, w = inputs.grid
    return inputs.draws.noise(h * w).view(-1, 1, h, w).expand(-1, t, -1, -1), None


def block(inputs: MaskInputs) -> Scores:
    """A square at a random place that stays there (the paper's "random block", Table 4e)."""
    centers = _simulated(inputs, moving=False)
    return nearness(centers, _unstretched(inputs), inputs.grid), None


def simulated_motion(inputs: MaskInputs) -> Scores:
    """A rectangle that moves at random over the clip (SMM dense, eq. 5)."""
    return _rectangle(inputs, _simulated(inputs))


def simulated_motion_sparse(inputs: MaskInputs) -> Scores:
    """Random weights around a centre that moves at random, and they move with it (SMM sparse).

    That it is made of single patches which move is all the paper tells. Ours: noise as wide as a
    side, minus the distance; so patches thin out towards the rim and beyond it. As there is no
    rectangle to keep inside, the centre goes as far as the border.
    """
    _, h, w = inputs.grid
    height, width = square_sides(inputs.config.ratio, inputs.grid)
    centers = simulated_centers(inputs.draws, inputs.grid, (0, 0))
    # The noise is a torus that is rolled with the centre.
    y, x = (centers // PATCH_UNITS).unbind(-1)
    rows = (torch.arange(h, device=y.device) - y[..., None]).remainder(h)
    columns = (torch.arange(w, device=x.device) - x[..., None]).remainder(w)
    places = (rows[..., None] * w + columns[:, :, None]).flatten(1)
    noise = inputs.draws.noise(h * w).gather(1, places).view(-1, *inputs.grid)
    weight = noise * (height * width) >> BITS
    return weight + nearness(centers, _unstretched(inputs), inputs.grid), None


def motion_guided(inputs: MaskInputs) -> Scores:
    """A rectangle that follows the strongest motion (MGM dense, eq. 7).

    Eq. 7 prints y_t/2 for the rectangle's upper edge; it must be h_t/2.
    """
    motion, config, slices = inputs.motion, inputs.config, inputs.grid.t
    if config.center == "vote":
        of_cells = strength.of_votes(motion, inputs.known, slices)
    else:
        of_cells = strength.of_cells(motion, inputs.motion_valid, slices)
    if config.center == "top_1":
        centers, known = strongest(of_cells, inputs.grid)
    else:
        centers, known = middle_of_strongest(of_cells, config.top_k, inputs.grid)
    return _rectangle(inputs, hold_last(centers, known, otherwise=_simulated(inputs)))


def motion_guided_sparse(inputs: MaskInputs) -> Scores:
    """The patches that move most, wherever they are (MGM sparse)."""
    scores = strength.of_patches(
        inputs.motion, inputs.motion_valid, inputs.known, inputs.grid
    ).long()
    known = scores.flatten(2).any(2)
    return hold_last(scores, known, otherwise=simulated_motion_sparse(inputs)[0]), None


def _rectangle(inputs: MaskInputs, centers: Tensor) -> Scores:
    """Minus the distance to the centres `[B, t, 2]`, with jitter and border as configured."""
    grid, config = inputs.grid, inputs.config
    stretch = jitter(inputs.draws.jitter, grid, config)
    sides = stretched(square_sides(config.ratio, grid), stretch)
    if config.border == "shift":
        centers = shift_inside(centers, sides, grid)
    # Near a border that does not shift it, the rectangle loses what the frame cuts off and grows on
    # the other sides until its count is full.
    return nearness(centers, sides, grid), count_change(stretch)


def _unstretched(inputs: MaskInputs) -> Tensor:
    """The sides without jitter, `[B, t, 2]`."""
    none = torch.zeros_like(inputs.draws.jitter)
    return stretched(square_sides(inputs.config.ratio, inputs.grid), none)


def _simulated(inputs: MaskInputs, *, moving: bool = True) -> Tensor:
    """Random centres whose rectangle stays inside of the frame, unless the border grows it."""
    height, width = square_sides(inputs.config.ratio, inputs.grid)
    margins = (height // 2, width // 2) if inputs.config.border == "shift" else (0, 0)
    return simulated_centers(inputs.draws, inputs.grid, margins, moving=moving)
