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


def flow_warp(inputs: MaskInputs) -> Scores:
    """Minus how much of each token is visible when the middle frame's choice moves along."""
    t, h, w = inputs.grid
    batch, frames, rows, columns, _ = inputs.motion.shape
    noise = inputs.draws.noise(h * w)[:, None]
    visible = h * w - hidden_per_slice(inputs.config.ratio, inputs.grid)
    shown = ~hide_highest(noise, visible, inputs.draws.ties, None)
    bells = _bells(shown.view(-1, h, w), rows, columns).flatten(1)
    moved = vector_steps(inputs.motion) * inputs.motion_known[..., None]
    cells = _cells_in_middle_frame(moved.int().flatten(2, 3), inputs.grid)
    weights = bells.gather(1, cells.flatten(1))
    weights = weights.view(batch, t, frames // t, h, rows // h, w, columns // w)
    return -weights.sum((2, 4, 6)), None


def _bells(shown: Tensor, rows: int, columns: int) -> Tensor:
    """How near each cell is to a token of `shown [B, h, w]`: `[B, H, W]`, highest at its middle.

    MGMAE takes the largest of Gaussians. Those rank cells by their distance alone, as ours do, but
    exponentials round differently on every device.
    """
    _, h, w = shown.shape
    far = 4 * (rows + columns) ** 2
    along_x = _squared_distances(columns, w, shown)  # [W, w]
    along_y = _squared_distances(rows, h, shown)  # [H, h]
    in_row = torch.where(shown[:, :, None], along_x, far).amin(3)  # [B, h, W]
    squared = (along_y[..., None] + in_row[:, None]).amin(2)  # [B, H, W]
    return (BELL_WIDTH**2 << BELL_BITS) // (BELL_WIDTH**2 + squared)


def _squared_distances(cells: int, patches: int, like: Tensor) -> Tensor:
    """Of the middles of cells and patches along one side, in half cells: `[cells, patches]`."""
    of_cells = 2 * torch.arange(cells, device=like.device) + 1
    of_patches = (2 * torch.arange(patches, device=like.device) + 1) * (cells // patches)
    return (of_cells[:, None] - of_patches).square()


def _cells_in_middle_frame(moved: Tensor, grid: PatchGrid) -> Tensor:
    """Which cell of the middle frame each cell's content is in, by its index: `[B, T, H*W]`.

    `moved [B, T, H*W, 2]` (dx, dy) in eighths of a pixel since the frame before. What is not in the
    middle frame stands where it is: so MGMAE fills what its warping leaves empty.
    """
    frames = moved.shape[1]
    cells = _Cells(2 * grid.h, 2 * grid.w, moved.device)
    middle = frames // 2
    away = {middle: torch.zeros_like(moved[:, 0])}
    for frame in range(middle + 1, frames):
        away[frame] = cells.follow(-moved[:, frame], away[frame - 1])
    for frame in reversed(range(middle)):
        away[frame] = cells.follow(moved[:, frame + 1], away[frame + 1])
    return torch.stack([cells.reached(away[frame]) for frame in range(frames)], 1)


class _Cells:
    """The cells of a frame, and what lies some way off them; ways are `[B, H*W, 2]` (dx, dy)."""

    def __init__(self, rows: int, columns: int, device: torch.device) -> None:
        self.rows, self.columns = rows, columns
        self.index = torch.arange(rows * columns, device=device)
        self.x = self.index % columns * CELL_STEPS + CELL_STEPS // 2
        self.y = self.index // columns * CELL_STEPS + CELL_STEPS // 2

    def follow(self, step: Tensor, onwards: Tensor) -> Tensor:
        """A step to the next frame, and from the cell reached there `onwards`."""
        reached = self.reached(step)[..., None].expand_as(onwards)
        return step + onwards.gather(1, reached)

    def reached(self, way: Tensor) -> Tensor:
        """The cell at the end of each cell's way, `[B, H*W]`; its own if that is outside."""
        column = (self.x + way[..., 0]) // CELL_STEPS
        row = (self.y + way[..., 1]) // CELL_STEPS
        inside = (column >= 0) & (column < self.columns) & (row >= 0) & (row < self.rows)
        return torch.where(inside, row * self.columns + column, self.index)
