"""How strongly things move, in numbers that are the same on every device.

A square root, or a sum that a compiler fuses with a product, rounds differently here and there, and
another cell would become the strongest. So vectors are counted in eighths of a pixel: whole numbers
small enough that float32 adds and multiplies them without rounding.

Letters: B clips, T frames, t slices, H W cells of 8x8 pixels, h w patches of 16x16.
"""

import torch
import torch.nn.functional as F
from torch import Tensor

from mgm_dali.clips.grid import PatchGrid

__all__ = ["STEPS_PER_PIXEL", "of_cells", "of_patches", "vector_steps", "vote"]

STEPS_PER_PIXEL = 8
LONGEST_STEPS = 2048
"""256 pixels, more than the side of a frame: longer vectors count as equally strong."""


def of_cells(motion: Tensor, valid: Tensor, slices: int) -> Tensor:
    """Squared length of the longest vector of each cell in a slice's frames: `[B, t, H, W]`.

    `motion [B, T, H, W, 2]` in pixels, `valid [B, T]`. Of a tubelet's two frames the paper does not
    say which counts: here, the one that moves more.
    """
    batch, frames, rows, columns, _ = motion.shape
    steps = motion * (valid * float(STEPS_PER_PIXEL))[..., None, None, None]
    squares = steps.round_().square_()
    strength = squares[..., 0] + squares[..., 1]
    strength = strength.view(batch, slices, frames // slices, rows, columns).amax(2)
    return strength.clamp_(max=2.0 * LONGEST_STEPS**2)


def of_patches(motion: Tensor, valid: Tensor, known: Tensor, grid: PatchGrid) -> Tensor:
    """The strongest of a patch's four cells, `[B, t, h, w]`.

    Blocks that the encoder could not predict have no vector; often they are what moves most wildly.
    So a cell that is not `known [B, T, H, W]` counts like the strongest around it.
    """
    frames = motion.shape[1]
    strength = of_cells(motion, valid, frames)
    around = F.max_pool2d(strength, 3, stride=1, padding=1)
    strength = torch.where(known, strength, around)
    strength = torch.maximum(strength[:, :, ::2], strength[:, :, 1::2])
    strength = torch.maximum(strength[..., ::2], strength[..., 1::2])
    return strength.view(-1, grid.t, frames // grid.t, grid.h, grid.w).amax(2)


def vote(motion: Tensor, known: Tensor) -> Tensor:
    """The mean of the known vectors among each cell and its eight neighbours, in pixels.

    A block's wrong vector points anywhere and is outvoted; those of one moving thing agree.
    `motion [B, T, H, W, 2]`, `known [B, T, H, W]`.
    """
    batch, frames, rows, columns, _ = motion.shape
    planes = torch.cat((vector_steps(motion), torch.ones_like(motion[..., :1])), -1)
    planes = (planes * known[..., None]).view(batch * frames, rows, columns, 3).permute(0, 3, 1, 2)
    sums = F.avg_pool2d(planes, 3, stride=1, padding=1, divisor_override=1)
    sums = sums.permute(0, 2, 3, 1).view(batch, frames, rows, columns, 3).int()
    mean = torch.div(sums[..., :2], sums[..., 2:].clamp(min=1), rounding_mode="trunc")
    return mean.float() / STEPS_PER_PIXEL


def vector_steps(motion: Tensor) -> Tensor:
    """Vectors in pixels as whole eighths of a pixel, float32."""
    return (motion * STEPS_PER_PIXEL).round_().clamp_(-LONGEST_STEPS, LONGEST_STEPS)
