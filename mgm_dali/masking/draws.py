"""All that is random about a clip's mask: drawn at once, from the clip's own seed.

One hash for all, because of everything in a mask hashing costs most.

Letters: B clips, t slices, P = h * w places. All are whole numbers from 0 to 2^24 - 1, int64.
"""

from dataclasses import dataclass

import torch
from torch import Tensor

from mgm_dali.clips.grid import PatchGrid
from mgm_dali.uniforms import uniform_bits

__all__ = ["Draws", "draw"]

DRAW_STREAM, NOISE_STREAM = 0, 1


@dataclass(frozen=True)
class Draws:
    """What the rules may use."""

    seed: Tensor
    """`[B]`, from which they follow."""
    ties: Tensor
    """`[B, P]`, which of two places that score alike is hidden."""
    start: Tensor
    """`[B, 2]`, where simulated motion begins (y, x)."""
    velocity: Tensor
    """`[B, 2]`, and how it goes on."""
    jitter: Tensor
    """`[B, t]`, how the rectangle changes its sides."""

    def noise(self, count: int) -> Tensor:
        """`[B, count]`, for the rules that hide at random."""
        return uniform_bits(self.seed, NOISE_STREAM, count)


def draw(seed: Tensor, grid: PatchGrid) -> Draws:
    """The draws of clips with these seeds, int64 `[B]`."""
    t, h, w = grid
    bits = uniform_bits(seed, DRAW_STREAM, h * w + 4 + t)
    ties, start, velocity, jitter = torch.split(bits, [h * w, 2, 2, t], dim=1)
    return Draws(seed, ties, start, velocity, jitter)
