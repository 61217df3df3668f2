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

__all__ = [
    "PATCH_UNITS",
    "hold_last",
    "middle_of_strongest",
    "simulated_centers",
    "strongest",
    "yx",
]

PATCH_UNITS = 256
BEYOND = 2**20
"""Farther than any two cells of a frame are, in eighths of a cell."""
FASTEST_PATCHES = 2


def strongest(strength: Tensor, grid: PatchGrid) -> tuple[Tensor, Tensor]:
    """Where the strongest cell is, `[B, t, 2]`, and where any moves, `[B, t]`.

    `strength [B, t, H, W]`. Pool_top1 of the paper's eq. 7; an argmax in its map of pixels would
    find the first pixel of a cell, which we take to be the cell's middle. The blocks of one thing
    often have one vector, and the first of them in memory would always be its upper left corner: of
    cells that are equally strong it is one in their middle row, and there in the middle of these.
    """
    chosen = _at_least(strength, strength.amax((2, 3), keepdim=True).clamp(min=1))
    of_rows = chosen.sum(3)
    row = _nearest_to_mean(of_rows)[..., None]
    in_row = chosen.gather(2, row[..., None].expand(-1, -1, 1, chosen.shape[3]))[:, :, 0]
    column = _nearest_to_mean(in_row)[..., None]
    cell = torch.cat((2 * row + 1, 2 * column + 1), -1)
    return _in_patches(cell, 1, strength, grid), of_rows.any(2)


def _nearest_to_mean(counts: Tensor) -> Tensor:
    """Of the indices that `counts [..., n]` counts, the one nearest to their mean, in 8ths of 1."""
    places = _twice_middles(counts.shape[-1], counts).long()
    counts = counts.long()
    mean = 4 * (counts * places).sum(-1) // counts.sum(-1).clamp(min=1)
    far = (4 * places - mean[..., None]).abs()
    return torch.where(counts > 0, far, BEYOND).argmin(-1)  # the first of two


def middle_of_strongest(strength: Tensor, top_k: int, grid: PatchGrid) -> tuple[Tensor, Tensor]:
    """Mean place of the `top_k` strongest cells `[B, t, 2]`, and where any moves `[B, t]`.

    `strength [B, t, H, W]`. Cells as strong as the last of the k share the places that are left
    for them, so that neither their order nor their number matters.
    """
    cells = strength.flatten(2)
    least = cells.topk(min(top_k, cells.shape[2])).values[..., -1, None, None].clamp(min=1)
    count, sums = _places(_at_least(strength, least))
    above, sums_above = _places(_at_least(strength, least + 1))
    tied, left = (count - above).clamp(min=1), count.clamp(max=top_k) - above
    total = tied * sums_above + left * (sums - sums_above)
    chosen = count.clamp(1, top_k) * tied
    return _in_patches(total, chosen, strength, grid), count[..., 0] > 0


def _at_least(strength: Tensor, least: Tensor) -> Tensor:
    """1 where `strength` is at least `least`, else 0: float32, which adds up quicker than bool.

    Both are whole numbers, so there is nothing between.
    """
    return (strength - (least - 1)).clamp_(0, 1)


def _places(chosen: Tensor) -> tuple[Tensor, Tensor]:
    """Number of `chosen [B, t, H, W]` cells `[B, t, 1]`, sums of twice their places `[B, t, 2]`."""
    of_rows, of_columns = chosen.sum(3), chosen.sum(2)
    sums = [
        (counts * _twice_middles(counts.shape[2], counts)).sum(2)
        for counts in (of_rows, of_columns)
    ]
    return of_rows.sum(2, keepdim=True).long(), torch.stack(sums, -1).long()


def _twice_middles(size: int, like: Tensor) -> Tensor:
    """1, 3, 5 ... in cells, twice where their middles are."""
    return torch.arange(1, 2 * size, 2, device=like.device, dtype=like.dtype)


def _in_patches(sums: Tensor, count: Tensor | int, strength: Tensor, grid: PatchGrid) -> Tensor:
    """Sums of twice the middles of so many cells as a place in 256ths of a patch."""
    _, _, rows, columns = strength.shape
    size = yx(grid.h, grid.w, sums.device) * PATCH_UNITS
    return sums * size // (2 * yx(rows, columns, sums.device) * count)


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
