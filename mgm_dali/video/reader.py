"""Reads frames of a video by number, exactly and without decoding more than is needed.

Pixels are as coded: rotation tags, pixel aspect ratios and colour tags are ignored, the same
everywhere in this project, and by NVIDIA DALI's decoders too. So motion and pixels agree, whoever
decodes them; a video filmed upright may lie on its side.

T frames, H W pixels. Raises `VideoError` for anything that is wrong with a file.
"""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from mgm_dali.video.frame_index import frame_index, index_and_packets
from mgm_dali.video.opening import OpenVideo, VideoError, open_video
from mgm_dali.video.rgb import RgbConverter
from mgm_dali.video.seeking import NumberedFrame, and_flush, decode_by_seeking, decode_packet
from mgm_dali.video.window import Window

__all__ = [
    "FrameNumbers",
    "VideoError",
    "VideoFacts",
    "decode_all_frames",
    "decode_frames",
    "probe",
    "read_frames",
]

FrameNumbers = Sequence[int] | NDArray[np.integer[Any]]

MAX_SECONDS = 2**31
"""Longest video that is believed; a manifest holds no larger number."""

# Where one packet is one frame; elsewhere `probe` counts by decoding.
_CONTAINERS_OF_FRAMES = frozenset({"mov", "matroska", "flv"})
_CODECS_WITH_HIDDEN_FRAMES = frozenset({"vp8", "vp9", "av1"})


@dataclass(frozen=True)
class VideoFacts:
    """What `probe` found out about a video."""

    num_frames: int
    fps: float
    """Frames a second, averaged over the video; 0 where nothing tells it."""
    width: int
    """Pixels as coded, before any rotation tag."""
    height: int
    codec: str
    """libavcodec's name of the codec, such as h264."""
    duration_seconds: float


def probe(path: str | Path) -> VideoFacts:
    """Decodes enough of a video to trust it, and tells its size and length.

    The first and the last frame are decoded, and all frames where packet counts are known to lie
    (AVI, raw and MPEG streams, VP8, VP9, AV1). Header counts are never believed.

    Raises `VideoError` with the reason if it has no frames, lacks its first key frame, changes its
    size, lasts for longer than `MAX_SECONDS`, or cannot be decoded to its end.
    """
    with open_video(path) as video:
        index = frame_index(video)
        codec = video.codec
        counts_may_lie = index.ordinal or _packets_may_hide_frames(video)
        fps = float(video.stream.average_rate or video.stream.guessed_rate or 0)
        time_base_seconds = float(video.stream.time_base or 0)
    if counts_may_lie:
        frames = decode_all_frames(path)
    else:
        frames = decode_frames(path, [0, len(index.pts) - 1])
    num_frames = width = height = 0
    for _, frame in frames:
        num_frames, width, height = num_frames + 1, frame.width, frame.height
    if not num_frames:
        raise VideoError(path, "no frame of it can be decoded")
    if not index.ordinal:
        if counts_may_lie and num_frames < len(index.pts):
            missing = len(index.pts) - num_frames
            raise VideoError(path, f"{missing} of its {len(index.pts)} packets give no frame")
        num_frames = len(index.pts)
        if span := (int(index.pts[-1]) - int(index.pts[0])) * time_base_seconds:
            fps = (num_frames - 1) / span
    duration_seconds = num_frames / fps if fps else 0.0
    if not 0 <= duration_seconds < MAX_SECONDS:
        found = f"{num_frames} frames in {duration_seconds:.3g} seconds"
        raise VideoError(path, f"its time stamps or its frame rate are nonsense: {found}")
    return VideoFacts(num_frames, fps, width, height, codec, duration_seconds)


def decode_frames(
    path: str | Path,
    numbers: FrameNumbers,
    *,
    export_vectors: bool = False,
    loop_filter: bool = True,
) -> Iterator[NumberedFrame]:
    """Decodes the wanted frames: (number, frame) in rising order, each once.

    The frames equal those of a decode from the start, in pixels and in vectors. A broken packet
    between them is passed over.

    Raises `VideoError` if a number is not in the video or its frame cannot be decoded.
    """
    wanted = sorted({int(number) for number in numbers})
    if not wanted or wanted[0] < 0:
        raise VideoError(path, f"frame numbers must be 0 or more, found {wanted[:1]}")
    return _of_one_size(path, _decode_wanted(path, wanted, export_vectors, loop_filter))


def decode_all_frames(
    path: str | Path, *, export_vectors: bool = False, loop_filter: bool = True
) -> Iterator[NumberedFrame]:
    """Decodes a whole video from its start: (number, frame) for every frame that decodes."""
    return _of_one_size(path, _decode_all(path, export_vectors, loop_filter))


def read_frames(
    path: str | Path, numbers: FrameNumbers, *, window: Window | None = None
) -> NDArray[np.uint8]:
    """Reads frames as uint8 `[T, H, W, 3]`, RGB, in the order asked; repeats are allowed.

    With a `window` only that part of each frame, for less time: the pixels are the same.

    Raises `VideoError` if a frame is missing, the size of the picture changes between them or the
    window does not lie in it.
    """
    to_rgb = RgbConverter(path, window)
    images = {number: to_rgb(frame) for number, frame in decode_frames(path, numbers)}
    return np.stack([images[int(number)] for number in numbers])


def _packets_may_hide_frames(video: OpenVideo) -> bool:
    container = video.container.format.name.split(",")[0]
    return container not in _CONTAINERS_OF_FRAMES or video.codec in _CODECS_WITH_HIDDEN_FRAMES


def _of_one_size(path: str | Path, frames: Iterator[NumberedFrame]) -> Iterator[NumberedFrame]:
    size: tuple[int, int] | None = None
    for number, frame in frames:
        size = size or (frame.width, frame.height)
        if (frame.width, frame.height) != size:
            change = f"from {size[0]}x{size[1]} to {frame.width}x{frame.height}"
            raise VideoError(path, f"its size changes {change} at frame {number}")
        yield number, frame


def _decode_all(
    path: str | Path, export_vectors: bool, loop_filter: bool
) -> Iterator[NumberedFrame]:
    with open_video(path, export_vectors=export_vectors, loop_filter=loop_filter) as video:
        index, from_first = index_and_packets(video)
        frames = (
            frame for packet in and_flush(from_first) for frame in decode_packet(video, packet)
        )
        if index.ordinal:
            yield from enumerate(frames)
            return
        number_at = {pts: number for number, pts in enumerate(index.pts.tolist())}
        for frame in frames:
            if frame.pts in number_at:
                yield number_at[frame.pts], frame


def _decode_wanted(
    path: str | Path, wanted: list[int], export_vectors: bool, loop_filter: bool
) -> Iterator[NumberedFrame]:
    num_frames = 0
    with open_video(path, export_vectors=export_vectors, loop_filter=loop_filter) as video:
        index = frame_index(video)
        if not index.ordinal:
            num_frames = len(index.pts)
            if wanted[-1] >= num_frames:
                raise _no_such_frame(path, wanted[-1], num_frames)
            for number, frame in decode_by_seeking(video, index, wanted):
                yield number, frame
                wanted = wanted[1:]
    if not wanted:
        return
    # Streams in which frames can only be counted, and frames that no seek could reach.
    number = -1
    for number, frame in _decode_all(path, export_vectors, loop_filter):
        if number == wanted[0]:
            yield number, frame
            wanted = wanted[1:]
        if not wanted:
            return
    if not num_frames:
        raise _no_such_frame(path, wanted[0], number + 1)
    which = f"frame {wanted[0]} of {num_frames}" if wanted[0] else "its first frame"
    raise VideoError(path, f"{which} cannot be decoded: broken, cut off or without a key frame")


def _no_such_frame(path: str | Path, number: int, num_frames: int) -> VideoError:
    if num_frames == 0:
        return VideoError(path, "no frame of it can be decoded")
    return VideoError(path, f"frame {number} was asked for, but it has {num_frames} frames")
