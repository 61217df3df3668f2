"""Motion since the sampled frame before: the vectors of all frames between, followed back.

    sampled frames     0           4           8
    since frame 4                    5 < 6 < 7 < 8       each cell of frame 8 is followed back

A vector tells where a cell of one frame came from. What it finds there has a vector of its own in
the frame before, and so on back to the frame after the last one sampled (as Wu et al. do in CoViAR,
CVPR 2018). Each vector is taken as the motion since the frame just before, though codecs may refer
to others and do not say it; in videos made by `mgm-dali prepare` it is true.

T frames asked for, N frames read, h w cells of 8x8 pixels.
"""

from typing import Any

import numpy as np
from numpy.typing import NDArray

from mgm_dali.config import CELL_PIXELS
from mgm_dali.motion.field import QUARTER_PELS, MotionField

__all__ = ["accumulate", "window_frames"]

Frames = NDArray[np.integer[Any]]

LONGEST_WINDOW = 32
"""Frames of a window at the most; what is further apart has little to do with each other."""
_CELL_UNITS = CELL_PIXELS * QUARTER_PELS


def window_frames(frames: Frames) -> NDArray[np.int64]:
    """All frames `[N]`, rising, whose vectors `accumulate` needs for `frames [T]`, rising too."""
    windows = [np.arange(start, end) for start, end in _windows(frames)]
    return np.unique(np.concatenate(windows)).astype(np.int64)


def accumulate(field: MotionField, read: Frames, frames: Frames) -> MotionField:
    """The motion of `frames [T]` since the sampled frame before each, from that of `read [N]`.

    A cell is known, and a frame valid, if any vector was found on the way; where one is missing,
    for an I-frame, say, the content is taken to have stood still for that frame. What came from
    outside of the picture is followed to its border. The first frame has as long a window as the
    second. Of a frame that is shown again nothing is known: it has not moved since.
    """
    first, last = np.array(_windows(frames)).T
    ways, known = _follow(field, read, first, last - 1)
    place = np.searchsorted(last - 1, frames)
    again = np.zeros(len(place), np.bool_)
    again[1:] = place[1:] == place[:-1]
    vectors, known = ways[place], known[place]
    vectors[again], known[again] = 0, False
    return MotionField(vectors, np.asarray(known.any((1, 2)), np.bool_), known)


def _windows(frames: Frames) -> list[tuple[int, int]]:
    """First and one behind the last frame of each window."""
    numbers = sorted({int(number) for number in frames})
    if len(numbers) == 1:
        return [(numbers[0], numbers[0] + 1)]
    gap = numbers[1] - numbers[0]
    before = [max(numbers[0] - gap, -1), *numbers[:-1]]
    return [
        (max(last + 1, number + 1 - LONGEST_WINDOW), number + 1)
        for last, number in zip(before, numbers, strict=True)
    ]


def _follow(
    field: MotionField, read: Frames, first: Frames, last: Frames
) -> tuple[NDArray[np.int16], NDArray[np.bool_]]:
    """Way and whether any of it is known, of each cell of the frames `last [W]`, to before `first`.

    All windows are followed at once, frame by frame, as long as any has frames left.
    """
    _, rows, columns, _ = field.vectors.shape
    vectors, known = field.vectors.reshape(-1, 2), field.known.reshape(-1)
    ways = np.zeros((len(last), rows, columns, 2), np.int32)
    found = np.zeros((len(last), rows, columns), np.bool_)
    y, x = np.indices((rows, columns), dtype=np.int32) * _CELL_UNITS + _CELL_UNITS // 2
    for back in range(int((last - first).max()) + 1):
        goes_on = np.flatnonzero(last - back >= first)
        frame = np.searchsorted(read, last[goes_on] - back)
        column = ((x - ways[goes_on, ..., 0]) // _CELL_UNITS).clip(0, columns - 1)
        row = ((y - ways[goes_on, ..., 1]) // _CELL_UNITS).clip(0, rows - 1)
        cell = (frame[:, None, None] * rows + row) * columns + column
        ways[goes_on] += vectors.take(cell, axis=0)  # 0 where not known
        found[goes_on] |= known.take(cell)
    limits = np.iinfo(np.int16)
    return ways.clip(limits.min, limits.max).astype(np.int16), found
