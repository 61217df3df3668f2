"""Which tokens are hidden: one idea carries the whole family.

A strategy is a score for every token; each slice hides its n highest scores, and the clip's own
noise breaks ties. So every strategy hides the same exact count, runs batched on any device without
waiting for it, and gives the same mask for the same clip wherever and whenever it is made.

Adding a strategy: one function in scores.py, one line in `MASKS`, its name in `MaskConfig`.
"""

from collections.abc import Callable

import torch
from torch import Tensor

from mgm_dali.clips.grid import PatchGrid
from mgm_dali.config import MaskConfig
from mgm_dali.masking.counts import hidden_per_slice
from mgm_dali.masking.scores import (
    MaskInputs,
    Scores,
    motion_guided,
    random_tokens,
    simulated_motion,
    tube,
)
from mgm_dali.uniforms import uniforms

__all__ = ["MASKS", "NEEDS_MOTION", "MaskInputs", "PatchGrid", "hidden_per_slice", "make_mask"]

MASKS: dict[str, Callable[[MaskInputs], Scores]] = {
    "random": random_tokens,
    "tube": tube,
    "simulated_motion": simulated_motion,
    "motion_guided": motion_guided,
}

NEEDS_MOTION = frozenset({"motion_guided"})
"""The strategies that look at motion; for the others it need not be read."""

TIE_STREAM = 0


@torch.no_grad()
def make_mask(
    motion: Tensor, motion_valid: Tensor, seed: Tensor, grid: PatchGrid, config: MaskConfig
) -> Tensor:
    """The mask of a batch: bool `[B, t*h*w]`, True = hidden, token order (t, h, w).

    `motion [B, T, H/8, W/8, 2]` in pixels, `motion_valid [B, T]`, `seed [B]` int64, all on the
    device the mask is wanted on. Every row hides exactly `grid.t * hidden_per_slice(...)` tokens.
    """
    inputs = MaskInputs(motion.float(), motion_valid, seed, PatchGrid(*grid), config)
    scores, count_change = MASKS[config.strategy](inputs)
    counts = torch.full((len(seed), grid.t), hidden_per_slice(config.ratio, grid)).to(seed.device)
    if count_change is not None:
        counts = counts + count_change
    return _hide_highest(scores.flatten(2), counts, seed).flatten(1)


def _hide_highest(scores: Tensor, counts: Tensor, seed: Tensor) -> Tensor:
    """bool `[B, t, h*w]`: in each slice the `counts [B, t]` highest of `scores [B, t, h*w]`.

    Equal scores are common (all tokens on one rim of a rectangle); noise decides between them,
    the same in all slices, so that a place that ties twice is not hidden now and shown then.
    """
    batch, slices, places = scores.shape
    shuffle = uniforms(seed, TIE_STREAM, places).argsort(dim=1, stable=True)
    shuffle = shuffle[:, None].expand(batch, slices, places)
    best_first = scores.gather(2, shuffle).argsort(dim=2, descending=True, stable=True)
    order = shuffle.gather(2, best_first)
    hidden = torch.arange(places, device=scores.device) < counts[..., None]
    return torch.zeros_like(hidden).scatter(2, order, hidden)
