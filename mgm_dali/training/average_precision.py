"""Average precision of boxes with actions, by the rule of AVA's official evaluation, and how sure.

The rule is PASCAL VOC's at all points (Everingham et al. 2010), as ActivityNet's
`get_ava_performance.py` computes it with TensorFlow's object detection evaluator. Of one action,
detections are judged by falling score. Each is held against the one true box of its moment that it
overlaps most, the first of equal ones. It is right if they overlap enough and the true box has not
been found before; else it is wrong, even if it overlaps another true box enough. COCO's rule, which
libraries offer, differs: there it may take that other box.

A detection whose box has no area (not x1 < x2, or not y1 < y2) is neither right nor wrong. Of
equal scores the earlier row comes first; the official order of these is left to its sorting.

Letters: M boxes with one action each, K moments, D detections of one action.
"""

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from mgm_dali.training.verdict import MIDDLE_95
from mgm_dali.video.ava import LabelledBoxes

__all__ = [
    "MAX_PER_MOMENT",
    "MIN_OVERLAP",
    "RESAMPLES",
    "average_precisions",
    "mean_precision_interval",
    "most_certain_rows",
]

MAX_PER_MOMENT = 50
"""Detections of one moment, of all actions together, that the official evaluation reads."""
MIN_OVERLAP = 0.5
"""Of a right detection: area of intersection over area of union."""
RESAMPLES = 200
"""Of the bootstrap: enough to know half the interval's width to about a tenth."""


@dataclass(frozen=True, eq=False)
class _Judged:
    """The detections of one action by falling score, and what there was to find."""

    right: NDArray[np.bool_]
    """`[D]`"""
    moments: NDArray[np.int64]
    """`[D]`"""
    true_moments: NDArray[np.int64]
    """Of each true box of the action."""


def most_certain_rows(
    moments: NDArray[np.int64], scores: NDArray[np.float64], limit: int = MAX_PER_MOMENT
) -> NDArray[np.int64]:
    """Of each moment the `limit` highest scores, of all actions together: their rows, rising.

    Of equal scores the earlier row stays.
    """
    order = np.lexsort((-scores, moments))
    ordered = moments[order]
    rank = np.arange(len(moments)) - np.searchsorted(ordered, ordered)
    return np.sort(order[rank < limit])


def average_precisions(
    truth: LabelledBoxes,
    found: LabelledBoxes,
    num_actions: int,
    min_overlap: float = MIN_OVERLAP,
    weights: NDArray[np.int64] | None = None,
) -> NDArray[np.float64]:
    """Average precision of each action, `[num_actions]`; NaN where it has no true box.

    All of `found` is judged: see `most_certain_rows`. Where a moment has no true box of the action,
    its detections are wrong. `weights`, `[K]`, says how often each moment counts; once if left out.
    """
    judged = _judged(truth, found, num_actions, min_overlap)
    if weights is None:
        last = max(truth.moments.max(initial=-1), found.moments.max(initial=-1))
        weights = np.ones(last + 1, np.int64)
    return np.array([_average_precision(action, weights) for action in judged])


def mean_precision_interval(
    truth: LabelledBoxes,
    found: LabelledBoxes,
    groups: NDArray[np.int64],
    num_actions: int,
    seed: int,
) -> tuple[float, float]:
    """95% bootstrap interval of the mean average precision over the actions with true boxes.

    `groups`, `[K]`, names the video of each moment. As many videos as there are get drawn with
    replacement, `RESAMPLES` times, because moments of one video are alike; a video that is drawn
    twice counts twice. An action without a true box in a resample is left out of its mean, and a
    resample without any true box is left out of the interval: NaN, NaN if none remains.
    """
    judged = _judged(truth, found, num_actions, MIN_OVERLAP)
    videos, video_of_moment = np.unique(groups, return_inverse=True)
    rng = np.random.default_rng(seed)
    means = []
    for _ in range(RESAMPLES):
        drawn = rng.integers(len(videos), size=len(videos))
        weights = np.bincount(drawn, minlength=len(videos))[video_of_moment]
        precisions = np.array([_average_precision(action, weights) for action in judged])
        there = ~np.isnan(precisions)
        if there.any():
            means.append(precisions[there].mean())
    low, high = np.percentile(means, MIDDLE_95) if means else (np.nan, np.nan)
    return float(low), float(high)


def _judged(
    truth: LabelledBoxes, found: LabelledBoxes, num_actions: int, min_overlap: float
) -> list[_Judged]:
    """The detections of every action, by falling score and judged."""
    x1, y1, x2, y2 = found.corners.T
    with_area = (x1 < x2) & (y1 < y2)
    judged = []
    for action in range(num_actions):
        true_boxes = truth.selected(truth.actions == action)
        true_boxes = true_boxes.selected(np.argsort(true_boxes.moments, kind="stable"))
        detections = found.selected(with_area & (found.actions == action))
        detections = detections.selected(np.argsort(-detections.scores, kind="stable"))
        overlaps, best = _most_overlapping(true_boxes, detections)
        hits = np.flatnonzero(overlaps >= min_overlap)
        _, first_hits = np.unique(best[hits], return_index=True)
        right = np.zeros(len(detections), np.bool_)
        right[hits[first_hits]] = True
        judged.append(_Judged(right, detections.moments, true_boxes.moments))
    return judged


def _most_overlapping(
    truth: LabelledBoxes, found: LabelledBoxes
) -> tuple[NDArray[np.float64], NDArray[np.int64]]:
    """How much each box overlaps which true box of its moment; -1 where there is none, both `[D]`.

    The true boxes are sorted by moment. Each turn compares every box with one more of them.
    """
    candidates = np.searchsorted(truth.moments, found.moments)
    ends = np.searchsorted(truth.moments, found.moments, side="right")
    overlaps, best = np.full(len(found), -1.0), np.full(len(found), -1)
    rows = np.flatnonzero(candidates < ends)
    while len(rows):
        overlap = _overlaps(found.corners[rows], truth.corners[candidates[rows]])
        better = overlap > overlaps[rows]
        overlaps[rows[better]] = overlap[better]
        best[rows[better]] = candidates[rows[better]]
        candidates[rows] += 1
        rows = rows[candidates[rows] < ends[rows]]
    return overlaps, best


def _overlaps(boxes: NDArray[np.float64], others: NDArray[np.float64]) -> NDArray[np.float64]:
    """Intersection over union of boxes that have areas and others, row by row, `[D]`."""
    sides = np.minimum(boxes[:, 2:], others[:, 2:]) - np.maximum(boxes[:, :2], others[:, :2])
    intersections = np.maximum(sides, 0).prod(axis=1)
    areas = (boxes[:, 2:] - boxes[:, :2]).prod(axis=1)
    other_areas = np.maximum(others[:, 2:] - others[:, :2], 0).prod(axis=1)
    shares: NDArray[np.float64] = intersections / (areas + other_areas - intersections)
    return shares


def _average_precision(action: _Judged, weights: NDArray[np.int64]) -> float:
    """Area under the highest precision at each recall or above; NaN if there is nothing to find."""
    true_boxes = weights[action.true_moments].sum()
    if true_boxes == 0:
        return np.nan
    each = weights[action.moments]
    gains = each[action.right]
    # Precision is highest where a right detection has just been added, so others need no division.
    seen = each.cumsum()[action.right]
    precisions = gains.cumsum() / np.maximum(seen, 1)  # of nothing drawn yet: 0
    highest = np.maximum.accumulate(precisions[::-1])[::-1]
    return float(highest @ gains / true_boxes)
