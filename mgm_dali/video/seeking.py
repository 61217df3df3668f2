"""Decodes single frames of a video without decoding the rest.

    key frames        K . . . . . . . . K . . . . . . . . K
    wanted            . . . x . x . . . . . . x . x . . . .
    runs              |---------|       |-----------|

Each run starts at its key frame and ends with its last wanted frame; in between, frames that
neither are wanted nor serve others are parsed but not decoded.
"""

from collections.abc import Iterable, Iterator
from itertools import dropwhile, groupby
from operator import itemgetter

import av
import numpy as np

from mgm_dali.video.frame_index import FrameIndex, VideoPacket, packets
from mgm_dali.video.opening import OpenVideo

__all__ = ["NumberedFrame", "and_flush", "decode_by_seeking", "decode_packet"]

NumberedFrame = tuple[int, av.VideoFrame]

# Decoders that leave every kept frame exact when told to skip frames that no other needs.
_CODECS_THAT_SKIP = frozenset({"h264", "hevc", "mpeg4", "mpeg2video"})
# Decoders that may be told early that no more is coming: the last frames are not waited for. The
# older codecs lose the vectors of the frames that they hand out at such an end.
_CODECS_THAT_FLUSH = frozenset({"h264", "hevc"})


def decode_by_seeking(
    video: OpenVideo, index: FrameIndex, wanted: list[int]
) -> Iterator[NumberedFrame]:
    """Decodes wanted frames run by run, and ends early at one that is missing.

    A demuxer may seek by decoding time and land one key frame late, and an open group of pictures
    may need the key frame before its own: so each run has a second try from there.
    """
    # libavcodec learns from the first packet alone whether an old x264 made these; without it,
    # all later groups of pictures decode wrongly.
    picture_format = video.stream.codec_context.format
    if video.codec == "h264" and picture_format and "444" in picture_format.name:
        return
    for nearest, run in _split_into_runs(index, wanted):
        for key in (nearest, nearest - 1):
            for number, frame in _decode_from(video, index, max(key, 0), run):
                if number != run[0]:
                    break
                yield number, frame
                run = run[1:]
            if not run:
                break
        else:
            return


def _split_into_runs(index: FrameIndex, wanted: list[int]) -> Iterator[tuple[int, list[int]]]:
    """Groups wanted frames by the key frame from which they are decoded: (its rank, frames)."""
    keys = np.searchsorted(index.key_pts, index.pts[wanted], side="right") - 1
    for key, pairs in groupby(zip(keys.tolist(), wanted, strict=True), key=itemgetter(0)):
        yield key, [number for _, number in pairs]


def _decode_from(
    video: OpenVideo, index: FrameIndex, key: int, wanted: list[int]
) -> Iterator[NumberedFrame]:
    """Decodes from a key frame until every wanted frame is out."""
    number_at = {int(index.pts[number]): number for number in wanted}
    to_send: set[int | None] = set(number_at)
    start_pts = int(index.key_pts[key])
    context = video.stream.codec_context
    may_skip = video.codec in _CODECS_THAT_SKIP
    try:
        video.container.seek(start_pts, stream=video.stream)
    except av.FFmpegError:
        return
    # Some demuxers land a little before the key frame, where nothing can be decoded rightly.
    stream = dropwhile(lambda p: not p.is_keyframe and p.pts != start_pts, packets(video))
    for packet in and_flush(stream):
        needed = packet is None or packet.pts in number_at or not may_skip
        context.skip_frame = "DEFAULT" if needed else "NONREF"
        released = decode_packet(video, packet)
        to_send.discard(packet.pts if packet and not packet.is_discard else None)
        all_sent = not to_send and video.codec in _CODECS_THAT_FLUSH
        if all_sent:
            released += decode_packet(video, None)
        for frame in released:
            if frame.pts == start_pts and not frame.key_frame:
                return  # the container lies about its key frames
            if frame.pts in number_at:
                yield number_at.pop(frame.pts), frame
        if all_sent or not number_at:
            return


def and_flush(stream: Iterable[VideoPacket]) -> Iterator[VideoPacket | None]:
    """Ends with None, at which the decoder hands out the frames that it still holds."""
    yield from stream
    yield None


def decode_packet(video: OpenVideo, packet: VideoPacket | None) -> list[av.VideoFrame]:
    """The frames that this packet releases; none if it is broken, so that later ones survive."""
    try:
        return video.stream.codec_context.decode(packet)
    except av.FFmpegError:
        return []
