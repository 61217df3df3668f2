"""Which frame is number n: one definition for pixels, vectors and every decoder.

    packets, in file order       I0 P3 B1 B2 P6 B4 B5      (pts 0 3 1 2 6 4 5)
    sorted pts                    0  1  2  3  4  5  6
    frame number n                0  1  2  3  4  5  6

Frame n is the n-th sorted presentation time stamp among the packets that an edit list does not
discard: NVIDIA DALI's own index, and the order in which libavcodec shows frames. AVI and raw
streams have no trustworthy time stamps, so there frames are counted from 0 as they are decoded.
"""

import contextlib
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import av
import numpy as np
from av.packet import Packet
from av.video.stream import VideoStream
from numpy.typing import NDArray

from mgm_dali.video.opening import OpenVideo, VideoError, open_video

__all__ = [
    "FrameIndex",
    "VideoPacket",
    "forget_index",
    "frame_index",
    "index_and_packets",
    "index_of",
    "packets",
]

if TYPE_CHECKING:
    VideoPacket = Packet[VideoStream]
else:
    VideoPacket = Packet  # generic in PyAV's stubs only

# libavformat guesses the time stamps of these and permutes them where there are B-frames.
_WITHOUT_TIME_STAMPS = frozenset(
    {"avi", "h264", "hevc", "vvc", "m4v", "mpegvideo", "h263", "obu", "av1"}
)

MAX_REMEMBERED = 4096
"""Indices kept per process, at about 8 bytes a frame."""
MAX_HELD_BYTES = 32 << 20
"""Packets of smaller files are held in memory between the two things that are done with them."""


@dataclass(frozen=True, eq=False)
class FrameIndex:
    """The frames of one video in display order."""

    pts: NDArray[np.int64]
    """`[N]` sorted time stamps in the stream's time base; frame n is shown at `pts[n]`.
    Empty when `ordinal`."""
    key_pts: NDArray[np.int64]
    """Sorted time stamps at which decoding can start, discarded key frames included; at least
    one unless `ordinal`."""
    ordinal: bool
    """True if frames can only be found by counting them from the first one."""
    codec: str
    """libavcodec's name of the codec, such as h264."""


Identity = tuple[str, int, int]
_remembered: dict[Identity, FrameIndex] = {}


def frame_index(video: OpenVideo) -> FrameIndex:
    """Indexes a freshly opened video by reading its packets, without decoding.

    Remembered per process until the file changes. Leaves the reading position anywhere: seek
    before decoding. Raises `VideoError` if the video holds no packet.
    """
    identity = _identity(video.path)
    return _remembered.get(identity) or _remember(identity, _scan(video, packets(video)))


def index_and_packets(video: OpenVideo) -> tuple[FrameIndex, Iterable[VideoPacket]]:
    """The index of a freshly opened video, and its packets from the first on.

    A file of a usual size is read once for both. Raises `VideoError` as `frame_index` does.
    """
    identity = _identity(video.path)
    if identity in _remembered or video.container.format.name in _WITHOUT_TIME_STAMPS:
        return frame_index(video), packets(video)  # reads nothing
    _, file_bytes, _ = identity
    if file_bytes > MAX_HELD_BYTES:
        return index_of(video.path), packets(video)
    held = list(packets(video))
    return _remember(identity, _scan(video, held)), held


def index_of(path: str | Path) -> FrameIndex:
    """The index of a file that need not be open; costs next to nothing once remembered."""
    try:
        index = _remembered.get(_identity(Path(path)))
    except OSError:
        index = None  # opening it says what is wrong
    if index is None:
        with open_video(path) as video:
            index = frame_index(video)
    return index


def forget_index(path: Path) -> None:
    """Makes a file one that was never met."""
    with contextlib.suppress(OSError):
        _remembered.pop(_identity(path), None)


def packets(video: OpenVideo) -> Iterator[VideoPacket]:
    """The stream's packets from here on; a file that is cut short ends where it ends."""
    demuxer = video.container.demux(video.stream)
    while True:
        try:
            packet = next(demuxer)
        except (StopIteration, av.FFmpegError):
            return
        except IndexError:  # PyAV's, behind the last packet of a file that named streams on the way
            return
        if packet.size:  # an empty packet would tell the decoder that the stream has ended
            yield packet


def _remember(identity: Identity, index: FrameIndex) -> FrameIndex:
    if len(_remembered) >= MAX_REMEMBERED:
        _remembered.pop(next(iter(_remembered)), None)
    _remembered[identity] = index
    return index


def _scan(video: OpenVideo, from_first: Iterable[VideoPacket]) -> FrameIndex:
    if video.container.format.name in _WITHOUT_TIME_STAMPS:
        return _counted(video)
    shown: list[int] = []
    keys: list[int] = []
    num_packets = 0
    for packet in from_first:
        num_packets += 1
        if packet.pts is None:
            if packet.is_discard:
                continue
            return _counted(video)
        if packet.is_keyframe:
            keys.append(packet.pts)
        if not packet.is_discard:
            shown.append(packet.pts)
    if not num_packets:
        raise VideoError(video.path, "no video packets: the file is cut short or only a header")
    if not shown:
        raise VideoError(video.path, "its edit list discards every frame")
    pts = np.unique(np.array(shown, dtype=np.int64))
    if len(pts) != len(shown):  # two packets at one time: time stamps do not name frames here
        return _counted(video)
    # A stream without key frames (all intra refresh) is decoded from its first frame.
    key_pts = np.unique(np.array(keys or shown[:1], dtype=np.int64))
    return FrameIndex(pts, key_pts, ordinal=False, codec=video.codec)


def _counted(video: OpenVideo) -> FrameIndex:
    nothing = np.empty(0, dtype=np.int64)
    return FrameIndex(nothing, nothing, ordinal=True, codec=video.codec)


def _identity(path: Path) -> Identity:
    """Changes whenever the file is replaced or rewritten."""
    facts = path.stat()
    return str(path.absolute()), facts.st_size, facts.st_mtime_ns
