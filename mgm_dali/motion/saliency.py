"""How much of a video's motion lies in given boxes: the paper's measure of saliency.

Fan et al. (arXiv 2308.12962) report that there is 1.47 times (SSv2) and 1.28 times (K400) as much
motion in bounding boxes as outside of them. How they average is not known to us. We choose, frame
by frame,

    r_bbox     = mean |v| in the boxes / mean |v| of the frame
    r_non_bbox = mean |v| elsewhere    / mean |v| of the frame

then the mean over the frames of a video, then over videos; the ratio is that of the two means. So a
video counts the same whether it is long or short, and much or little moves in it.

T frames, h w cells of 8x8 pixels, V videos.
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from mgm_dali.config import CELL_PIXELS
from mgm_dali.motion.field import MotionField

__all__ = ["LEFT_OUT", "Saliency", "cell_shares", "ratio_interval", "saliency"]

LEFT_OUT = {
    "no_boxes": "without a box",
    "no_vectors": "without motion vectors",
    "one_sided": "without a known cell in the boxes, or outside of them",
    "static": "in which nothing moves",
}
"""Why a frame has no ratio: a name, and what it says to people."""

NEGLIGIBLE_AREA = 1e-6
"""In cells; less is what rounding leaves of nothing."""


@dataclass(frozen=True)
class Saliency:
    """The measure of one video, averaged over its frames."""

    r_bbox: float
    """NaN if no frame could be used, as is the other."""
    r_non_bbox: float
    frames_used: int
    left_out: dict[str, int]
    """Frames that were not, by the names of `LEFT_OUT`."""


def saliency(
    field: MotionField, boxes_of_frame: Sequence[NDArray[np.float64]], width: int, height: int
) -> Saliency:
    """Compares the motion in the boxes of each frame with that elsewhere in it.

    `boxes_of_frame` has for each of the T frames `[N, 4]` corners x0, y0, x1, y1 in pixels of the
    video, which is `width` pixels wide. Cells are weighted by the share of them that lies in any
    box, and in the picture; unknown ones do not count.
    """
    rows, columns = field.known.shape[1:]
    picture = cell_shares(np.array([[0.0, 0.0, width, height]]), columns, rows)
    left_out = dict.fromkeys(LEFT_OUT, 0)
    ratios = []
    for vectors, valid, known, boxes in zip(
        field.pixels(), field.valid, field.known, boxes_of_frame, strict=True
    ):
        length = np.hypot(vectors[..., 0], vectors[..., 1], dtype=np.float64)
        whole = picture * known
        inside = np.minimum(cell_shares(boxes, columns, rows), picture) * known
        outside = whole - inside
        if not len(boxes):
            left_out["no_boxes"] += 1
        elif not valid:
            left_out["no_vectors"] += 1
        elif min(inside.sum(), outside.sum()) < NEGLIGIBLE_AREA:
            left_out["one_sided"] += 1
        elif not (length * whole).any():
            left_out["static"] += 1
        else:
            mean = np.average(length, weights=whole)
            ratios.append([np.average(length, weights=part) / mean for part in (inside, outside)])
    r_bbox, r_non_bbox = np.mean(ratios, axis=0).tolist() if ratios else (math.nan, math.nan)
    return Saliency(r_bbox, r_non_bbox, len(ratios), left_out)


def cell_shares(boxes: NDArray[np.float64], columns: int, rows: int) -> NDArray[np.float64]:
    """The share of each cell's area that lies in any of the boxes, `[h, w]` from `[N, 4]`; exact.

    The edges of all boxes cut the picture into rectangles that are each inside a box or outside of
    all: so nothing counts twice where boxes overlap.
    """
    x0, y0, x1, y1 = boxes.reshape(-1, 4, 1).transpose(1, 0, 2) / CELL_PIXELS
    x_edges, y_edges = np.unique((x0, x1)), np.unique((y0, y1))
    in_columns = (x0 <= x_edges[:-1]) & (x_edges[1:] <= x1)
    in_rows = (y0 <= y_edges[:-1]) & (y_edges[1:] <= y1)
    inside = (in_rows[:, :, None] & in_columns[:, None, :]).any(0)
    shares: NDArray[np.float64] = _overlaps(rows, y_edges) @ inside @ _overlaps(columns, x_edges).T
    return shares


def ratio_interval(
    r_bbox: NDArray[np.float64],
    r_non_bbox: NDArray[np.float64],
    rng: np.random.Generator,
    resamples: int = 2000,
) -> tuple[float, float, float]:
    """The ratio of the means over videos, and the 95% interval of a bootstrap over them.

    `[V]` values each, V at least 1. Where nothing moves outside of the boxes the ratio is infinite.
    """
    num_videos = len(r_bbox)
    resampled = []
    for _ in range(resamples):
        drawn = rng.integers(num_videos, size=num_videos)
        resampled.append(_ratio(r_bbox[drawn], r_non_bbox[drawn]))
    # Not interpolated: between a number and infinity there is nothing.
    low, high = np.quantile(resampled, (0.025, 0.975), method="nearest").tolist()
    return _ratio(r_bbox, r_non_bbox), low, high


def _ratio(r_bbox: NDArray[np.float64], r_non_bbox: NDArray[np.float64]) -> float:
    outside = float(r_non_bbox.mean())
    return float(r_bbox.mean()) / outside if outside else math.inf


def _overlaps(num_cells: int, edges: NDArray[np.float64]) -> NDArray[np.float64]:
    """How much of each cell of a row lies in each interval between edges, `[cells, intervals]`."""
    starts = np.arange(num_cells)[:, None]
    lengths: NDArray[np.float64] = np.minimum(starts + 1, edges[1:]) - np.maximum(
        starts, edges[:-1]
    )
    lengths[lengths < 0] = 0
    return lengths
