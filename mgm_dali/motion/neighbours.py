"""Motion since the frame before: what all sources that compare pictures have in common.

    wanted     . . . x x . . . x .        pairs, compared a few at a time
    decoded    . . o x x . . o x .        (2, 3) (3, 4) (7, 8)

A frame's field depends on it and on the one before alone, so it is the same whatever else is asked
for.
"""

from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import TypeVar

import av

from mgm_dali.motion.field import Grid, MotionField, gather, nothing
from mgm_dali.video.opening import VideoError
from mgm_dali.video.reader import FrameNumbers, decode_all_frames, decode_frames

__all__ = ["SMALLEST_PIXELS", "read_since_frame_before"]

SMALLEST_PIXELS = 16
"""In pictures that are narrower or lower nothing is known: they hold too little to be found again,
are less than a block, and OpenCV's flow ends the process with a fault on some of them."""

Picture = TypeVar("Picture")


def read_since_frame_before(
    path: str | Path,
    frames: FrameNumbers | None,
    *,
    prepare: Callable[[av.VideoFrame], Picture],
    compare: Callable[[Sequence[tuple[Picture, Picture]]], Sequence[Grid]],
    pairs_at_once: int = 1,
) -> MotionField:
    """The motion of frames (all by default) since the frame before each.

    In the order asked; repeats are allowed. `prepare` makes of a decoded frame what `compare` looks
    at, once per frame; `compare` gets up to `pairs_at_once` pairs of (the frame before, the frame)
    and gives the field of each. No more pictures than these are held at a time.

    Frame 0 is not valid, nor is one whose predecessor does not decode. Raises `VideoError`.
    """
    grids: dict[int, Grid] = {}
    waiting: dict[int, tuple[Picture, Picture]] = {}
    before: tuple[int, Picture] | None = None
    for number, frame, is_wanted in _decode_with_predecessors(path, frames):
        picture = prepare(frame)
        if is_wanted:
            grids[number] = nothing(frame.width, frame.height)
            is_large = min(frame.width, frame.height) >= SMALLEST_PIXELS
            if is_large and before is not None and before[0] == number - 1:
                waiting[number] = before[1], picture
        before = number, picture
        if len(waiting) == pairs_at_once:
            grids.update(zip(waiting, compare(list(waiting.values())), strict=True))
            waiting.clear()
    if waiting:
        grids.update(zip(waiting, compare(list(waiting.values())), strict=True))
    if not grids:
        raise VideoError(path, "no frame of it can be decoded")
    return gather(grids, range(max(grids) + 1) if frames is None else frames)


def _decode_with_predecessors(
    path: str | Path, frames: FrameNumbers | None
) -> Iterator[tuple[int, av.VideoFrame, bool]]:
    """(number, frame, whether it is wanted) in one decoding pass."""
    if frames is None:
        for number, frame in decode_all_frames(path):
            yield number, frame, True
        return
    wanted = {int(number) for number in frames}
    predecessors = {number - 1 for number in wanted if number > 0}
    for number, frame in decode_frames(path, sorted(wanted | predecessors)):
        yield number, frame, number in wanted
