"""Motion by block matching, for codecs that carry no vectors or hide them (HEVC, VP9, AV1 ...).

Each block of 16x16 pixels is looked for in the frame before: FFmpeg's `mestimate` filter with the
enhanced predictive zonal search, which was the best for its time against the vectors of encoders
and against optical flow. Blocks of 8x8 fit a little better and cost five times as much.
"""

from pathlib import Path
from typing import Any

import av
import numpy as np
from numpy.typing import NDArray

from mgm_dali.config import CELL_PIXELS
from mgm_dali.motion.codec import vectors_of
from mgm_dali.motion.field import QUARTER_PELS, Grid, MotionField, paint
from mgm_dali.motion.neighbours import read_since_frame_before
from mgm_dali.video.filters import filter_chain, forget_colour_tags
from mgm_dali.video.opening import DECODING_ERRORS, VideoError
from mgm_dali.video.reader import FrameNumbers

__all__ = ["read_motion"]

BLOCK_PIXELS = 16
"""At most the size of the smallest pictures that are compared."""
SEARCH_PIXELS = 32
"""Longest motion a frame that is found; the filter's own limit of 7 loses fast things."""


def read_motion(path: str | Path, frames: FrameNumbers | None = None) -> MotionField:
    """Estimates the motion of frames (all by default) since the frame before each.

    In the order asked; repeats are allowed. Frame 0 is not valid, nor is any frame of a video that
    is smaller than one block. Raises `VideoError`.
    """
    return read_since_frame_before(
        path,
        frames,
        prepare=lambda frame: frame,
        compare=lambda pairs: [_match(path, *pair) for pair in pairs],
    )


def _match(path: str | Path, previous: av.VideoFrame, frame: av.VideoFrame) -> Grid:
    try:
        vectors = _search(previous, frame)
    except DECODING_ERRORS as error:
        raise VideoError(path, f"its motion cannot be estimated: {error}") from error
    # The filter leaves motion_x, motion_y and motion_scale unset.
    displacement = np.empty((len(vectors), 2), dtype=np.int32)
    for axis, name in enumerate("xy"):
        moved = vectors[f"dst_{name}"].astype(np.int32) - vectors[f"src_{name}"]
        displacement[:, axis] = moved * QUARTER_PELS
    field, known = paint(vectors, displacement, frame.width, frame.height)
    # What is left of a block at the right and the lower border moves like its neighbour.
    columns = frame.width // BLOCK_PIXELS * BLOCK_PIXELS // CELL_PIXELS
    rows = frame.height // BLOCK_PIXELS * BLOCK_PIXELS // CELL_PIXELS
    field[:, columns:] = field[:, columns - 1 : columns]
    field[rows:] = field[rows - 1 : rows]
    return field, np.ones_like(known)


def _search(previous: av.VideoFrame, frame: av.VideoFrame) -> NDArray[Any]:
    """Where each block of `frame` was in `previous`, structured like a codec's vectors.

    The filter matches each frame with the one before and the one after it. Told that `previous`
    comes after `frame`, it does in one step what we want, and nothing has come before that could
    influence it; so a new graph is needed for each pair.
    """
    options = f"method=epzs:mb_size={BLOCK_PIXELS}:search_param={SEARCH_PIXELS}"
    graph = filter_chain(frame, ("mestimate", options))
    frame.pts, previous.pts = 0, 1
    for image in (frame, previous):
        forget_colour_tags(image)
        graph.vpush(image)
    vectors = vectors_of(graph.vpull())
    assert vectors is not None, "mestimate attaches vectors to every frame"
    return vectors[vectors["source"] > 0]
