"""Motion vectors as the codec left them in the file: no estimation, only decoding.

    frames        I  P  P  B ...           valid   False  True  True  True
    vectors       -  x  x  x               known   no cell | all but intra-coded blocks

Two things libavcodec does not tell are frames without vectors here: B-frames of MPEG-4 part 2, and
the last frame of MPEG-1 and MPEG-2, which it hands out as the stream ends.

T frames, H W pixels, h w cells of 8x8 pixels.
"""

from collections.abc import Iterator
from itertools import islice
from pathlib import Path
from typing import Any

import av
import numpy as np
from av.sidedata.sidedata import SideDataContainer
from av.video.frame import PictureType
from numpy.typing import NDArray

from mgm_dali.motion.field import Grid, MotionField, gather, rasterise
from mgm_dali.video.frame_index import index_of
from mgm_dali.video.opening import VideoError
from mgm_dali.video.reader import FrameNumbers, decode_all_frames, decode_frames
from mgm_dali.video.rgb import RgbConverter
from mgm_dali.video.seeking import NumberedFrame
from mgm_dali.video.window import Window

__all__ = ["CODECS_WITH_VECTORS", "iter_vectors", "read_clip", "read_motion", "vectors_of"]

CODECS_WITH_VECTORS = frozenset(
    "h264 mpeg4 mpeg2video mpeg1video h263 flv1 msmpeg4v2 msmpeg4v3 wmv1 wmv2 rv10 rv20".split()
)
"""Codecs whose decoders hand out their vectors; HEVC, VP8, VP9 and AV1 are not among them."""

FRAMES_AT_ONCE = 16
"""Frames whose vectors are painted together; more take memory and save no time."""

# libavcodec's AVMotionVector. The structure has padding that is never initialised: compare fields.
_VECTOR = np.dtype(
    [
        ("source", np.int32),
        ("w", np.uint8),
        ("h", np.uint8),
        ("src_x", np.int16),
        ("src_y", np.int16),
        ("dst_x", np.int16),
        ("dst_y", np.int16),
        ("flags", np.uint64),
        ("motion_x", np.int32),
        ("motion_y", np.int32),
        ("motion_scale", np.uint16),
    ],
    align=True,
)


def iter_vectors(path: str | Path) -> Iterator[tuple[int, NDArray[Any] | None]]:
    """Yields (frame number, vectors) for every frame of a video that decodes.

    The vectors are a structured array with libavcodec's field names (`source`, `w`, `h`, `src_x`,
    ..., `motion_scale`), in its order, or None where the frame carries none. They are the codec's
    own: nothing is flipped, scaled or left out.
    """
    for number, frame in decode_all_frames(path, export_vectors=True, loop_filter=False):
        yield number, vectors_of(frame)


def read_motion(path: str | Path, frames: FrameNumbers | None = None) -> MotionField:
    """Reads the motion of frames (all by default) in the order asked; repeats are allowed.

    A codec that exports no vectors gives a field in which nothing is valid. Among all frames, one
    that does not decode has no motion; a frame that was asked for and does not decode raises
    `VideoError`, as does any file that cannot be read.
    """
    if frames is None:
        decoded = decode_all_frames(path, export_vectors=True, loop_filter=False)
    else:
        decoded = decode_frames(path, frames, export_vectors=True, loop_filter=False)
    grids = _motion_of_frames(path, decoded)
    if not grids:
        raise VideoError(path, "no frame of it can be decoded")
    return gather(grids, range(max(grids) + 1) if frames is None else frames)


def read_clip(
    path: str | Path,
    frames: FrameNumbers,
    *,
    window: Window | None = None,
    motion_frames: FrameNumbers | None = None,
) -> tuple[NDArray[np.uint8], MotionField]:
    """Reads frames and their motion in one decoding pass: uint8 `[T, H, W, 3]` RGB, and the field.

    In the order asked; repeats are allowed. With a `window` the frames are that part alone, and the
    field is still the whole picture's. With `motion_frames` the field is of those frames instead.
    Raises `VideoError`.
    """
    to_rgb = RgbConverter(path, window)
    moving = frames if motion_frames is None else motion_frames
    shown = {int(number) for number in frames}
    images: dict[int, NDArray[np.uint8]] = {}

    def keep_images() -> Iterator[NumberedFrame]:
        read = sorted(shown.union(map(int, moving)))
        for number, frame in decode_frames(path, read, export_vectors=True):
            if number in shown:
                images[number] = to_rgb(frame)
            yield number, frame

    grids = _motion_of_frames(path, keep_images())
    return np.stack([images[int(number)] for number in frames]), gather(grids, moving)


def _motion_of_frames(path: str | Path, decoded: Iterator[NumberedFrame]) -> dict[int, Grid]:
    """The fields of decoded frames of a video, by their numbers; no frame is kept."""
    grids: dict[int, Grid] = {}
    found = _true_vectors(path, decoded)
    while group := list(islice(found, FRAMES_AT_ONCE)):
        numbers, widths, heights, vectors = zip(*group, strict=True)
        fields = zip(*rasterise(vectors, widths[0], heights[0]), strict=True)
        grids.update(zip(numbers, fields, strict=True))
    return grids


def _true_vectors(
    path: str | Path, decoded: Iterator[NumberedFrame]
) -> Iterator[tuple[int, int, int, NDArray[Any]]]:
    """(number, width, height, vectors) of each frame; none where zeros stand for the unknown."""
    codec = ""
    for number, frame in decoded:
        vectors = vectors_of(frame)
        if vectors is None:
            vectors = np.empty(0, dtype=_VECTOR)
        elif frame.pict_type == PictureType.B:
            # Behind the first frame, when the index is known: before, it would be a second opening.
            codec = codec or index_of(path).codec
            knows = codec != "mpeg4" or vectors["motion_x"].any() or vectors["motion_y"].any()
            vectors = vectors if knows else vectors[:0]
        yield number, frame.width, frame.height, vectors


def vectors_of(frame: av.VideoFrame) -> NDArray[Any] | None:
    """The vectors attached to a frame, structured with libavcodec's field names, or None."""
    # Not `frame.side_data`: the frame would keep it, and it the frame, so that pictures pile up
    # until Python looks for cycles.
    side_data = SideDataContainer(frame).get("MOTION_VECTORS")  # type: ignore[call-arg]
    if side_data is None:
        return None
    # A copy: a view would keep the whole decoded picture in memory. Its bytes, because numpy copies
    # a structure field by field, ten times slower.
    return np.frombuffer(bytes(side_data), dtype=_VECTOR)
