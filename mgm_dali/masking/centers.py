"""Where the hidden rectangle of each slice is centred.

Letters: B clips, T frames, t slices (tubelets), h w patches. Positions are (y, x) from the top left
corner of the grid, int64, in 256ths of a patch: the middle of patch (0, 0) is (128, 128). Whole
numbers, because they are the same on every device, compiled or not.
"""

import torch
from torch import Tensor

from mgm_dali.clips.grid import PatchGrid
from mgm_dali.masking.draws import Draws
from mgm_dali.uniforms import BITS, scale_bits

__all__ = ["PATCH_UNITS", "hold_last", "middle_of_strongest", "simulated_centers", "yx"]

PATCH_UNITS = 256
FASTEST_PATCHES = 2


def middle_of_strongest(strength: Tensor, top_k: int, grid: PatchGrid) -> tuple[Tensor, Tensor]:
    """Mean position of the `top_k` strongest cells `[B, t, 2]`, and where any moves `[B, t]`.

    `strength [B, t, H, W]`. With 1 it is Pool_top1 of the paper's eq. 7; an argmax in its map of
    pixels would find the first pixel of a cell, which we take to be the cell's middle. Cells as
    strong as the last of the k are all counted: blocks of one thing often have one vector, and the
    first of them in memory would always be its upper left corner.
    """
    _, _, rows, columns = strength.shape
    if top_k == 1:
        least = strength.amax((2, 3), keepdim=True)
    else:
        cells = strength.flatten(2)
        least = cells.topk(min(top_k, rows * columns)).values[..., -1, None, None]
    # 1 where strength >= least, else 0: both are whole numbers, and float32 adds those quickest.
    chosen = (strength - (least.clamp(min=1) - 1)).clamp_(0, 1)
    of_rows, of_columns = chosen.sum(3).long(), chosen.sum(2).long()
    count = of_rows.sum(2).clamp(min=1)
    along = (
        ((2 * _position(places) + count) * (PATCH_UNITS * size) // (2 * len_cells * count))
        for places, size, len_cells in ((of_rows, grid.h, rows), (of_columns, grid.w, columns))
    )
    return torch.stack(tuple(along), -1), of_rows.any(2)


def _position(counts: Tensor) -> Tensor:
    """Sum of the indices of all that `counts [..., n]` counts."""
    return (counts * torch.arange(counts.shape[-1], device=counts.device)).sum(-1)


def hold_last(values: Tensor, known: Tensor, otherwise: Tensor) -> Tensor:
    """Fills the slices of which nothing is known, `values [B, t, ...]`, `known [B, t]`.

    They keep the last known; before the first, the first; a clip that has none takes `otherwise`.
    The paper is silent: an I-frame carries no vectors, and the argmax of zeros would put the
    rectangle into the top left corner.
    """
    slices = torch.arange(known.shape[1], device=known.device)
    before = known[:, None, :] & (slices <= slices[:, None])
    last = torch.where(before, slices, -1).amax(2)
    first = torch.where(known, slices, len(slices) - 1).amin(1, keepdim=True)
    source = torch.where(last < 0, first, last)
    shape = (*source.shape, *[1] * (values.ndim - 2))
    held = values.gather(1, source.view(shape).expand_as(values))
    return torch.where(known.any(1).view(-1, *[1] * (values.ndim - 1)), held, otherwise)


def simulated_centers(
    draws: Draws, grid: PatchGrid, margins: tuple[int, int], *, moving: bool = True
) -> Tensor:
    """Centres that do not look at the video (SMM, eq. 5): `[B, t, 2]`.

    A random start and a constant velocity, reflected where the rectangle would leave the frame;
    `margins` (y, x) are how near to the border a centre may come. The paper leaves the velocity
    open: ours is a whole number of patches from -2 to 2 a slice, along each axis.
    """
    device = draws.start.device
    margin = yx(*margins, device)
    room = (yx(grid.h, grid.w, device) * PATCH_UNITS - 2 * margin).clamp(min=1)
    path = (draws.start * room >> BITS)[:, None].expand(-1, grid.t, -1)
    if moving:
        velocity = scale_bits(draws.velocity, -FASTEST_PATCHES, FASTEST_PATCHES) * PATCH_UNITS
        slices = torch.arange(grid.t, device=device)[:, None]
        path = (path + velocity[:, None] * slices).remainder(2 * room)
    return margin + torch.minimum(path, 2 * room - path)


def yx(y: int, x: int, device: torch.device) -> Tensor:
    """`[2]` int64, made on the device: a tensor of Python's numbers would wait for it."""
    return y + (x - y) * torch.arange(2, device=device)
