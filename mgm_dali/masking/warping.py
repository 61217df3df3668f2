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
    known = inputs.known
    steps = [(vector_steps(along) * known).int().flatten(2) for along in inputs.motion.unbind(-1)]
    weights = bells.gather(1, _in_middle_frame(steps, rows, columns).flatten(1))
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


def _in_middle_frame(steps: list[Tensor], rows: int, columns: int) -> Tensor:
    """Which cell of the middle frame each cell's content is in, by its index: `[B, T, H*W]`.

    `steps` is the motion since the frame before, in 16ths of a pixel, dx and dy `[B, T, H*W]`.
    """
    middle = steps[0].shape[1] // 2
    after = [-along[:, middle + 1 :] for along in steps]
    before = [along[:, 1 : middle + 1].flip(1) for along in steps]
    itself = torch.arange(rows * columns, device=steps[0].device)
    nearest_first, later = _follow(before, rows, columns), _follow(after, rows, columns)
    return torch.stack([*nearest_first[::-1], itself.expand(len(steps[0]), -1), *later], 1)


def _follow(steps: list[Tensor], rows: int, columns: int) -> list[Tensor]:
    """Where the cells of the F frames on one side of the middle are in it: int64 `[B, H*W]` each.

    `steps` are `[B, F, H*W]`, nearest frame first: each leads to the next nearer frame, whose own
    lead on. All frames go at once. What leaves the picture is taken to stand where it is: so MGMAE
    fills what its warping leaves empty.
    """
    frames = steps[0].shape[1]
    index = torch.arange(rows * columns, device=steps[0].device, dtype=torch.int32)
    start_x = index % columns * CELL_STEPS + CELL_STEPS // 2
    start_y = index // columns * CELL_STEPS + CELL_STEPS // 2
    x, y = (start.expand_as(steps[0]) for start in (start_x, start_y))
    arrived = []
    for nearer in range(frames):
        # The nearest of the frames that are left has one step to go, each other one more.
        cell, inside = _cell_at(x, y, rows, columns)
        x, y = (
            place + along[:, : frames - nearer].gather(2, cell) * inside
            for place, along in zip((x, y), steps, strict=True)
        )
        cell, inside = _cell_at(x[:, 0], y[:, 0], rows, columns)
        arrived.append(torch.where(inside, cell, index))
        x, y = x[:, 1:], y[:, 1:]
    return arrived


def _cell_at(x: Tensor, y: Tensor, rows: int, columns: int) -> tuple[Tensor, Tensor]:
    """The index of the cell at a place, int64, and whether it is in the picture."""
    column, row = x // CELL_STEPS, y // CELL_STEPS
    nearest_column, nearest_row = column.clamp(0, columns - 1), row.clamp(0, rows - 1)
    inside = (column == nearest_column) & (row == nearest_row)
    return (nearest_row * columns + nearest_column).long(), inside
