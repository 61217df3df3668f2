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
    outside of the picture is followed to its border. A frame that is repeated has the same motion
    each time, and the first has as long a window as the second.
    """
    place_of = {int(number): place for place, number in enumerate(read)}
    fields = {}
    for start, end in _windows(frames):
        places = [place_of[number] for number in range(end - 1, start - 1, -1)]
        fields[end - 1] = _follow(field.vectors[places], field.known[places])
    chosen = [fields[int(number)] for number in frames]
    vectors, known = (np.stack(planes) for planes in zip(*chosen, strict=True))
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
    vectors: NDArray[np.int16], known: NDArray[np.bool_]
) -> tuple[NDArray[np.int16], NDArray[np.bool_]]:
    """Way and whether any of it is known, of each cell of the newest frame; newest frame first."""
    _, rows, columns, _ = vectors.shape
    way = np.zeros((rows, columns, 2), np.int32)
    found = np.zeros((rows, columns), np.bool_)
    y, x = np.indices((rows, columns)) * _CELL_UNITS + _CELL_UNITS // 2
    for of_frame, known_of_frame in zip(vectors, known, strict=True):
        column = ((x - way[..., 0]) // _CELL_UNITS).clip(0, columns - 1)
        row = ((y - way[..., 1]) // _CELL_UNITS).clip(0, rows - 1)
        way += of_frame[row, column]  # 0 where not known
        found |= known_of_frame[row, column]
    limits = np.iinfo(np.int16)
    return way.clip(limits.min, limits.max).astype(np.int16), found
