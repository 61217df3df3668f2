"""Which tokens are hidden: one idea carries the whole family.

A strategy is a score for every token; each slice hides its n highest scores, and the clip's own
noise breaks ties. (n differs by one where a rectangle changes its sides; a clip's sum never does.)
So every strategy hides the same exact count, runs batched on any device without waiting for it, and
gives the same mask for the same clip wherever and whenever it is made.

    motion -> strength -> centres -> rectangle -> scores -> the n highest of each slice

Adding a strategy: ARCHITECTURE.md, "How to add", names all that it touches.
"""

from collections.abc import Callable

import torch
from torch import Tensor

from mgm_dali.clips.grid import PatchGrid
from mgm_dali.config import MaskConfig
from mgm_dali.masking.checks import require_tensor
from mgm_dali.masking.counts import hidden_per_slice
from mgm_dali.masking.decoding import decoded_count, decoded_tokens
from mgm_dali.masking.draws import draw
from mgm_dali.masking.scores import (
    MaskInputs,
    Scores,
    block,
    motion_guided,
    motion_guided_sparse,
    random_tokens,
    simulated_motion,
    simulated_motion_sparse,
    tube,
)
from mgm_dali.masking.selection import hide_highest
from mgm_dali.masking.warping import flow_warp

__all__ = [
    "MASKS",
    "NEEDS_MOTION",
    "MaskInputs",
    "PatchGrid",
    "decoded_count",
    "decoded_tokens",
    "hidden_per_slice",
    "make_mask",
]

MASKS: dict[str, Callable[[MaskInputs], Scores]] = {
    "random": random_tokens,
    "tube": tube,
    "block": block,
    "simulated_motion": simulated_motion,
    "simulated_motion_sparse": simulated_motion_sparse,
    "motion_guided": motion_guided,
    "motion_guided_sparse": motion_guided_sparse,
    "flow_warp": flow_warp,
}

NEEDS_MOTION = frozenset({"motion_guided", "motion_guided_sparse", "flow_warp"})
"""The strategies that look at motion; for the others it need not be read."""


@torch.no_grad()
def make_mask(
    motion: Tensor,
    motion_valid: Tensor,
    seed: Tensor,
    grid: PatchGrid,
    config: MaskConfig,
    motion_known: Tensor | None = None,
) -> Tensor:
    """The mask of a batch: bool `[B, t*h*w]`, True = hidden, token order (t, h, w).

    `motion [B, T, H/8, W/8, 2]` in pixels, finite, `motion_valid [B, T]` bool, `seed [B]` int64,
    all on the device the mask is wanted on; `motion_known [B, T, H/8, W/8]` bool says which cells
    have a vector (others must be 0), by default all of valid frames. Every row hides exactly
    `grid.t * hidden_per_slice(config.ratio, grid)` tokens.

    Raises `ValueError` if shapes or dtypes are not those of clips of this grid, `UserError` for a
    ratio that leaves nothing to hide or to show.
    """
    t, h, w = grid = PatchGrid(*grid)
    cells = (len(seed), 2 * t, 2 * h, 2 * w)
    require_tensor("motion", motion, (*cells, 2), motion.dtype)
    require_tensor("motion_valid", motion_valid, cells[:2], torch.bool)
    if motion_known is None:
        motion_known = motion_valid[:, :, None, None].expand(cells)
    require_tensor("motion_known", motion_known, cells, torch.bool)
    require_tensor("seed", seed, cells[:1], torch.int64)  # of another dtype it would hash to others
    draws = draw(seed, grid)
    inputs = MaskInputs(motion.float(), motion_valid, motion_known, draws, grid, config)
    scores, count_change = MASKS[config.strategy](inputs)
    visible = h * w - hidden_per_slice(config.ratio, grid)
    return hide_highest(scores.flatten(2), visible, draws.ties, count_change).flatten(1)
