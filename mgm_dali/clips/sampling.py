"""Which frames of a video make a clip: dense or from equal segments, at random or as a view.

    dense, 4 frames, stride 2      . x . x . x . x . . .      a start at random, then every 2nd
    segments, 4 frames             x . .|. x .|. x .|. . x    one from each equal part

A video shorter than the clip repeats its last frame, as VideoMAE does. Frame numbers count the
frames in display order from 0 (`mgm_dali.video.reader`).

Where `clip.target_fps` is set, strides count frames of a video shown at that rate, whatever the
video's own: of one that is twice as fast every other frame is passed over, of a slower one some
are shown twice. The own rate is the mean, so in a video of variable rate strides vary with it.
"""

import math
from collections.abc import Callable

import numpy as np
from numpy.typing import NDArray

from mgm_dali.config import ClipConfig

__all__ = ["SAMPLERS", "VIEWS", "frames_around", "random_frames", "stride_of", "view_frames"]

Frames = NDArray[np.int64]


def random_frames(
    config: ClipConfig, num_frames: int, video_frames: int, fps: float, rng: np.random.Generator
) -> Frames:
    """A training clip: int64 [num_frames], each in [0, video_frames)."""
    return SAMPLERS[config.sampling](stride_of(config, fps), num_frames, video_frames, rng)


def view_frames(
    config: ClipConfig,
    num_frames: int,
    video_frames: int,
    fps: float,
    segment: int,
    num_segments: int,
) -> Frames:
    """The frames of test view `segment` of `num_segments`: int64 [num_frames]."""
    stride = stride_of(config, fps)
    return VIEWS[config.sampling](stride, num_frames, video_frames, segment, num_segments)


def frames_around(
    config: ClipConfig, num_frames: int, video_frames: int, fps: float, keyframe: int
) -> Frames:
    """The clip whose second half begins with `keyframe`: int64 [num_frames].

    Where it reaches over an end of the video, that end's frame is repeated, as usual for AVA.
    """
    offsets = np.arange(num_frames) - num_frames // 2
    frames: Frames = np.floor(keyframe + stride_of(config, fps) * offsets + 0.5).astype(np.int64)
    return frames.clip(0, video_frames - 1)


def stride_of(config: ClipConfig, fps: float) -> float:
    """Frames from one sampled frame to the next in a video of `fps` (0: not known)."""
    if config.target_fps is None or not fps:
        return config.stride_frames
    return config.stride_frames * fps / config.target_fps


def _random_dense(
    stride_frames: float, num_frames: int, video_frames: int, rng: np.random.Generator
) -> Frames:
    room = _room(stride_frames, num_frames, video_frames)
    start = int(rng.integers(0, room, endpoint=True))
    return _every_stride(start, stride_frames, num_frames, video_frames)


def _random_segments(
    stride_frames: float, num_frames: int, video_frames: int, rng: np.random.Generator
) -> Frames:
    del stride_frames
    places = (np.arange(num_frames) + rng.random(num_frames)) / num_frames
    return np.minimum((places * video_frames).astype(np.int64), video_frames - 1)


def _dense_view(
    stride_frames: float, num_frames: int, video_frames: int, segment: int, num_segments: int
) -> Frames:
    """Starts spread evenly from the first possible to the last; one view takes the middle."""
    share = segment / (num_segments - 1) if num_segments > 1 else 0.5
    start = int(share * _room(stride_frames, num_frames, video_frames))
    return _every_stride(start, stride_frames, num_frames, video_frames)


def _segments_view(
    stride_frames: float, num_frames: int, video_frames: int, segment: int, num_segments: int
) -> Frames:
    """View k of K takes frame k/K of the way through each segment (two views: start and centre)."""
    del stride_frames
    places = (np.arange(num_frames) + segment / num_segments) / num_frames
    return np.minimum((places * video_frames).astype(np.int64), video_frames - 1)


def _room(stride_frames: float, num_frames: int, video_frames: int) -> int:
    """The last frame at which a clip can start and still have all its frames, if there is one."""
    return max(video_frames - math.ceil(num_frames * stride_frames), 0)


def _every_stride(start: int, stride_frames: float, num_frames: int, video_frames: int) -> Frames:
    steps: Frames = np.floor(stride_frames * np.arange(num_frames) + 0.5).astype(np.int64)
    return np.minimum(start + steps, video_frames - 1)


SAMPLERS: dict[str, Callable[[float, int, int, np.random.Generator], Frames]] = {
    "dense": _random_dense,
    "segments": _random_segments,
}
VIEWS: dict[str, Callable[[float, int, int, int, int], Frames]] = {
    "dense": _dense_view,
    "segments": _segments_view,
}
