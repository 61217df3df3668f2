"""Where the hidden rectangle of each slice is centred.

Letters: B clips, T frames, t slices (tubelets), h w patches. Positions are (y, x) in patches from
the top left corner of the grid; the middle of patch (0, 0) is (0.5, 0.5).
"""

import torch
from torch import Tensor

from mgm_dali.clips.grid import PatchGrid
from mgm_dali.uniforms import uniform_integers, uniforms

__all__ = ["hold_last", "simulated_centers", "strongest_motion"]

START_STREAM, VELOCITY_STREAM = 1, 2


def strongest_motion(motion: Tensor, valid: Tensor, grid: PatchGrid) -> tuple[Tensor, Tensor]:
    """Centre of the strongest motion: positions `[B, t, 2]`, and where there is one `[B, t]`.

    `motion [B, T, H/8, W/8, 2]` in pixels, `valid [B, T]`. Pool_top1 of the paper's eq. 7. Open
    there, chosen here: the strength of a slice is the maximum over the frames of its tubelet, and
    the centre is the middle of the strongest 8x8 cell (the paper up-samples the cells to pixels,
    where an argmax would mean the cell's first pixel).
    """
    batch, frames, cells_h, cells_w, _ = motion.shape
    strength = motion.square().sum(-1) * valid[:, :, None, None]  # the square keeps the order
    strength = strength.view(batch, grid.t, frames // grid.t, cells_h * cells_w).amax(2)
    peak, cell = strength.max(-1)
    y = (cell.div(cells_w, rounding_mode="floor") + 0.5) * (grid.h / cells_h)
    x = (cell.remainder(cells_w) + 0.5) * (grid.w / cells_w)
    return torch.stack((y, x), -1), peak > 0


def hold_last(centers: Tensor, known: Tensor, otherwise: Tensor) -> Tensor:
    """Fills the slices without a centre: `[B, t, 2]`.

    They keep the last known one; before the first, the first; a clip that has none takes
    `otherwise [B, t, 2]`. The paper is silent: an I-frame carries no vectors, and the argmax of
    zeros would put the rectangle into the top left corner.
    """
    slices = torch.arange(known.shape[1], device=known.device)
    last = torch.where(known, slices, -1).cummax(1).values
    first = known.int().argmax(1, keepdim=True)
    source = torch.where(last < 0, first, last)
    held = centers.gather(1, source[..., None].expand_as(centers))
    return torch.where(known.any(1)[:, None, None], held, otherwise)


def simulated_centers(seed: Tensor, grid: PatchGrid, margin: Tensor) -> Tensor:
    """Centres that move without looking at the video (SMM, eq. 5): `[B, t, 2]`.

    A random start and a constant velocity, reflected where the rectangle would leave the frame;
    `margin [2]` (y, x) is how near to the border a centre may come. The paper leaves the velocity
    open: ours is a whole number of patches from -2 to 2 a slice, along each axis.
    """
    size = torch.tensor((grid.h, grid.w), dtype=torch.float32, device=seed.device)
    room = (size - 2 * margin).clamp(min=1e-6)
    start = uniforms(seed, START_STREAM, 2)[:, None] * room
    velocity = uniform_integers(seed, VELOCITY_STREAM, -2, 2, 2)[:, None]
    slices = torch.arange(grid.t, device=seed.device)[:, None]
    path = (start + velocity * slices).remainder(2 * room)
    return margin + torch.minimum(path, 2 * room - path)
