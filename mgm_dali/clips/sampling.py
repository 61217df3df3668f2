"""Which frames of a video make a clip: dense or from equal segments, at random or as a view.

    dense, 4 frames, stride 2      . x . x . x . x . . .      a start at random, then every 2nd
    segments, 4 frames             x . .|. x .|. x .|. . x    one from each equal part

A video shorter than the clip repeats its last frame, as VideoMAE does. Frame numbers count the
frames in display order from 0 (`mgm_dali.video.reader`).
"""

from collections.abc import Callable

import numpy as np
from numpy.typing import NDArray

from mgm_dali.config import ClipConfig

__all__ = ["SAMPLERS", "VIEWS", "random_frames", "view_frames"]

Frames = NDArray[np.int64]


def random_frames(
    config: ClipConfig, num_frames: int, video_frames: int, rng: np.random.Generator
) -> Frames:
    """A training clip: int64 [num_frames], each in [0, video_frames)."""
    return SAMPLERS[config.sampling](config, num_frames, video_frames, rng)


def view_frames(
    config: ClipConfig, num_frames: int, video_frames: int, segment: int, num_segments: int
) -> Frames:
    """The frames of test view `segment` of `num_segments`: int64 [num_frames]."""
    return VIEWS[config.sampling](config, num_frames, video_frames, segment, num_segments)


def _random_dense(
    config: ClipConfig, num_frames: int, video_frames: int, rng: np.random.Generator
) -> Frames:
    window = num_frames * config.stride_frames
    start = int(rng.integers(0, max(video_frames - window, 0), endpoint=True))
    return _every_stride(start, config.stride_frames, num_frames, video_frames)


def _random_segments(
    config: ClipConfig, num_frames: int, video_frames: int, rng: np.random.Generator
) -> Frames:
    del config
    places = (np.arange(num_frames) + rng.random(num_frames)) / num_frames
    return np.minimum((places * video_frames).astype(np.int64), video_frames - 1)


def _dense_view(
    config: ClipConfig, num_frames: int, video_frames: int, segment: int, num_segments: int
) -> Frames:
    """Starts spread evenly from the first possible to the last; one view takes the middle."""
    room = max(video_frames - num_frames * config.stride_frames, 0)
    share = segment / (num_segments - 1) if num_segments > 1 else 0.5
    return _every_stride(int(share * room), config.stride_frames, num_frames, video_frames)


def _segments_view(
    config: ClipConfig, num_frames: int, video_frames: int, segment: int, num_segments: int
) -> Frames:
    """View k of K takes frame k/K of the way through each segment (two views: start and centre)."""
    del config
    places = (np.arange(num_frames) + segment / num_segments) / num_frames
    return np.minimum((places * video_frames).astype(np.int64), video_frames - 1)


def _every_stride(start: int, stride_frames: int, num_frames: int, video_frames: int) -> Frames:
    return np.minimum(start + stride_frames * np.arange(num_frames), video_frames - 1)


SAMPLERS: dict[str, Callable[[ClipConfig, int, int, np.random.Generator], Frames]] = {
    "dense": _random_dense,
    "segments": _random_segments,
}
VIEWS: dict[str, Callable[[ClipConfig, int, int, int, int], Frames]] = {
    "dense": _dense_view,
    "segments": _segments_view,
}
