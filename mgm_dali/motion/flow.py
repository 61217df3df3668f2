"""From optical flow, a vector for every pixel or every few, to a field of cells.

Every source that gives flow gives it on the grid of the present, from there to the past: where was
this pixel? Its opposite is how the content of a cell has moved.
"""

import numpy as np
from numpy.typing import NDArray

from mgm_dali.config import CELL_PIXELS
from mgm_dali.motion.field import QUARTER_PELS, Grid

__all__ = ["cells_of_flow", "grow_pictures"]


def cells_of_flow(to_past: NDArray[np.float32], *, pixels_per_vector: int = 1) -> Grid:
    """The mean motion of each cell, from a flow `[h', w', 2]` of the present to the past, pixels.

    One vector stands for `pixels_per_vector` pixels each way; cells at the right and the lower
    border are averaged over what they have. Every cell is known, unless its flow is not a number.
    """
    step = CELL_PIXELS // pixels_per_vector
    rows, columns = np.arange(0, to_past.shape[0], step), np.arange(0, to_past.shape[1], step)
    sums = np.add.reduceat(np.add.reduceat(to_past, rows, axis=0), columns, axis=1)
    heights = np.diff(rows, append=to_past.shape[0])
    widths = np.diff(columns, append=to_past.shape[1])
    moved = -sums / np.outer(heights, widths)[:, :, None]
    known = np.isfinite(moved).all(axis=-1)
    limits = np.iinfo(np.int16)
    quarters = np.clip(np.rint(moved * QUARTER_PELS), limits.min, limits.max)
    return np.where(known[:, :, None], quarters, 0).astype(np.int16), known


def grow_pictures(
    pictures: NDArray[np.uint8], *, smallest_pixels: int, multiple: int = 1
) -> NDArray[np.uint8]:
    """Repeats the last column and row of `[N, H, W]` or `[N, H, W, C]` up to a size that will do.

    That is at least `smallest_pixels` each way, and a multiple of `multiple`.
    """
    missing = [
        -(-max(pixels, smallest_pixels) // multiple) * multiple - pixels
        for pixels in pictures.shape[1:3]
    ]
    at_the_end = [(0, 0), (0, missing[0]), (0, missing[1]), (0, 0)]
    return np.pad(pictures, at_the_end[: pictures.ndim], mode="edge")
