"""How strongly things move, in numbers that are the same on every device.

A square root, or a sum that a compiler fuses with a product, rounds differently here and there, and
another cell would become the strongest. So vectors are counted in 16ths of a pixel: whole numbers
small enough that float32 adds and multiplies them without rounding. What differs by less is equal.

Letters: B clips, T frames, t slices, H W cells of 8x8 pixels, h w patches of 16x16.
"""

from collections.abc import Callable
from functools import reduce

import torch
import torch.nn.functional as F
from torch import Tensor

from mgm_dali.clips.grid import PatchGrid

__all__ = ["STEPS_PER_PIXEL", "of_cells", "of_patches", "of_votes", "vector_steps"]

STEPS_PER_PIXEL = 16
LONGEST_STEPS = 2048
"""128 pixels along an axis: what goes farther within a frame counts as equally strong."""


def of_cells(motion: Tensor, valid: Tensor, slices: int) -> Tensor:
    """Squared length of the longest vector of each cell in a slice's frames: `[B, t, H, W]`.

    `motion [B, T, H, W, 2]` in pixels, `valid [B, T]`. Of a tubelet's two frames the paper does not
    say which counts: here, the one that moves more.
    """
    batch, frames, rows, columns, _ = motion.shape
    of_slice = frames // slices
    vectors = motion.reshape(batch, slices, of_slice, rows, columns, 2).unbind(2)
    scales = (valid * float(STEPS_PER_PIXEL)).view(batch, slices, of_slice, 1, 1, 1).unbind(2)
    strengths = []
    for of_frame, scale in zip(vectors, scales, strict=True):
        squares = (of_frame * scale).round_().square_()
        strengths.append(squares[..., 0] + squares[..., 1])
    return reduce(torch.maximum, strengths).clamp(max=2.0 * LONGEST_STEPS**2)


def of_votes(motion: Tensor, known: Tensor, slices: int) -> Tensor:
    """The same of the mean of the known vectors among each cell and its eight neighbours.

    A block's wrong vector points anywhere and is outvoted; those of one moving thing agree.
    `motion [B, T, H, W, 2]`, `known [B, T, H, W]`.
    """
    weight = known.float()
    counts = _around(weight, torch.add).clamp(min=1)
    means = []
    for along in motion.unbind(-1):
        sums = _around(vector_steps(along) * weight, torch.add)
        means.append(torch.div(sums.int(), counts.int(), rounding_mode="trunc"))
    strength = (means[0].square() + means[1].square()).float()
    batch, frames, rows, columns = known.shape
    return strength.view(batch, slices, frames // slices, rows, columns).amax(2)


def of_patches(motion: Tensor, valid: Tensor, known: Tensor, grid: PatchGrid) -> Tensor:
    """The strongest of a patch's four cells, `[B, t, h, w]`.

    Blocks that the encoder could not predict have no vector; often they are what moves most wildly.
    So a cell that is not `known [B, T, H, W]` counts like the strongest around it.
    """
    frames = motion.shape[1]
    strength = of_cells(motion, valid, frames)
    strength = torch.where(known, strength, _around(strength, torch.maximum))
    strength = torch.maximum(strength[:, :, ::2], strength[:, :, 1::2])
    strength = torch.maximum(strength[..., ::2], strength[..., 1::2])
    return strength.view(len(motion), grid.t, frames // grid.t, grid.h, grid.w).amax(2)


def vector_steps(motion: Tensor) -> Tensor:
    """Vectors in pixels as whole 16ths of a pixel, float32."""
    return (motion * STEPS_PER_PIXEL).round_().clamp_(-LONGEST_STEPS, LONGEST_STEPS)


def _around(cells: Tensor, combine: Callable[[Tensor, Tensor], Tensor]) -> Tensor:
    """Each cell of `[..., H, W]` combined with its eight neighbours; beyond the border is 0."""
    padded = F.pad(cells, (1, 1, 1, 1))
    rows = combine(combine(padded[..., :-2, :], padded[..., 1:-1, :]), padded[..., 2:, :])
    return combine(combine(rows[..., :-2], rows[..., 1:-1]), rows[..., 2:])
