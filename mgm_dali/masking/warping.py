"""Visible tokens that follow the motion: the mask of MGMAE (Huang et al., ICCV 2023).

    middle frame        some random tokens are visible, each the middle of a bell
    other frames        each cell is followed, vector by vector, to where it is in the middle frame
    each slice          shows the tokens whose cells came from, or go, nearest to the visible ones

MGMAE warps a map of pixels by RAFT's flow in both directions. We follow cells of 8x8 pixels by the
vectors that we have, of which each tells where a cell came from: so on the way from frames before
the middle one, a place is taken to move on as what comes to lie there does.

Letters: B clips, T frames, H W cells, h w patches. Whole numbers only, as everywhere in masks.
"""

import torch
from torch import Tensor

from mgm_dali.clips.grid import PatchGrid
from mgm_dali.config import CELL_PIXELS
from mgm_dali.masking.counts import hidden_per_slice
from mgm_dali.masking.scores import MaskInputs, Scores
from mgm_dali.masking.selection import hide_highest
from mgm_dali.masking.strength import STEPS_PER_PIXEL, vector_steps

__all__ = ["flow_warp"]

CELL_STEPS = CELL_PIXELS * STEPS_PER_PIXEL
BELL_BITS = 16
BELL_WIDTH = 4
"""In half cells, so 16 pixels: a patch, as in MGMAE."""

Way = tuple[Tensor, Tensor]
"""(dx, dy) of every cell, `[B, H*W]` each, int32 in eighths of a pixel."""


def flow_warp(inputs: MaskInputs) -> Scores:
    """Minus how much of each token is visible when the middle frame's choice moves along."""
    t, h, w = inputs.grid
    batch, frames, rows, columns, _ = inputs.motion.shape
    noise = inputs.draws.noise(h * w)[:, None]
    visible = h * w - hidden_per_slice(inputs.config.ratio, inputs.grid)
    shown = ~hide_highest(noise, visible, inputs.draws.ties, None)
    bells = _bells(shown.view(-1, h, w), rows, columns).flatten(1)
    x, y = (
        (vector_steps(along) * inputs.motion_known).int().flatten(2).unbind(1)
        for along in inputs.motion.unbind(-1)
    )
    cells = _in_middle_frame(list(zip(x, y, strict=True)), inputs.grid)
    weights = torch.stack([bells.gather(1, cell) for cell in cells], 1)
    weights = weights.view(batch, t, frames // t, rows, columns).sum(2)
    weights = weights[..., ::2, :] + weights[..., 1::2, :]
    return -(weights[..., ::2] + weights[..., 1::2]), None


def _bells(shown: Tensor, rows: int, columns: int) -> Tensor:
    """How near each cell is to a token of `shown [B, h, w]`: `[B, H, W]`, highest at its middle.

    MGMAE takes the largest of Gaussians. Those rank cells by their distance alone, as ours do, but
    exponentials round differently on every device.
    """
    _, h, w = shown.shape
    far = 4 * (rows + columns) ** 2
    along_y = _squared_distances(h, rows, shown)  # [h, H]
    along_x = _squared_distances(w, columns, shown)  # [w, W]
    in_row = torch.where(shown[..., None], along_x, far).amin(2)  # [B, h, W]
    squared = (along_y[..., None] + in_row[:, :, None]).amin(1)  # [B, H, W]
    return (BELL_WIDTH**2 << BELL_BITS) // (BELL_WIDTH**2 + squared)


def _squared_distances(patches: int, cells: int, like: Tensor) -> Tensor:
    """Of the middles of patches and cells along one side, in half cells: `[patches, cells]`."""
    of_patches, of_cells = (
        (2 * torch.arange(count, device=like.device) + 1) * (cells // count)
        for count in (patches, cells)
    )
    return (of_patches[:, None] - of_cells).square()


def _in_middle_frame(moved: list[Way], grid: PatchGrid) -> list[Tensor]:
    """Which cell of the middle frame each cell's content is in, by its index, for every frame.

    `moved` is the motion of each frame since the one before. What is not in the middle frame stands
    where it is: so MGMAE fills what its warping leaves empty.
    """
    cells = _Cells(2 * grid.h, 2 * grid.w, moved[0][0].device)
    middle = len(moved) // 2
    still = torch.zeros_like(moved[0][0])
    ways = {middle: (still, still)}
    for frame in range(middle + 1, len(moved)):
        x, y = moved[frame]
        ways[frame] = cells.follow((-x, -y), ways[frame - 1])
    for frame in reversed(range(middle)):
        ways[frame] = cells.follow(moved[frame + 1], ways[frame + 1])
    return [cells.reached(ways[frame]) for frame in range(len(moved))]


class _Cells:
    """The cells of a frame, and what lies some way off them."""

    def __init__(self, rows: int, columns: int, device: torch.device) -> None:
        self.rows, self.columns = rows, columns
        self.index = torch.arange(rows * columns, device=device, dtype=torch.int32)
        self.x = self.index % columns * CELL_STEPS + CELL_STEPS // 2
        self.y = self.index // columns * CELL_STEPS + CELL_STEPS // 2

    def follow(self, step: Way, onwards: Way) -> Way:
        """A step to the next frame, and from the cell reached there `onwards`."""
        reached = self.reached(step)
        return step[0] + onwards[0].gather(1, reached), step[1] + onwards[1].gather(1, reached)

    def reached(self, way: Way) -> Tensor:
        """The cell at the end of each cell's way, int64 `[B, H*W]`; its own if that is outside."""
        column, row = (self.x + way[0]) // CELL_STEPS, (self.y + way[1]) // CELL_STEPS
        inside = column == column.clamp(0, self.columns - 1)
        inside &= row == row.clamp(0, self.rows - 1)
        return torch.where(inside, row * self.columns + column, self.index).long()
