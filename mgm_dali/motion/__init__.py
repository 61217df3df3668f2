"""Motion of videos, from whichever source: `MOTION_SOURCES` is the whole list."""

from collections.abc import Callable
from pathlib import Path

from mgm_dali.motion import block_matching, codec, dis_flow, optical_flow, raft
from mgm_dali.motion.codec import read_clip, read_motion
from mgm_dali.motion.field import MotionField
from mgm_dali.motion.store import read_stored_motion
from mgm_dali.video.reader import FrameNumbers

__all__ = ["MOTION_SOURCES", "MotionField", "MotionSource", "read_clip", "read_motion"]

MotionSource = Callable[[Path, FrameNumbers | None, Path | None], MotionField]
"""(video, its frames or None for all, resource) to a field, in that order.

The resource is what the source needs beside the video: the folder of the store, the file of RAFT's
weights; else None.
"""


def _by_video_alone(
    read: Callable[[Path, FrameNumbers | None], MotionField],
) -> MotionSource:
    return lambda path, frames, _resource: read(path, frames)


MOTION_SOURCES: dict[str, MotionSource] = {
    "codec": _by_video_alone(codec.read_motion),
    "block_matching": _by_video_alone(block_matching.read_motion),
    "dis_flow": _by_video_alone(dis_flow.read_motion),
    "optical_flow": _by_video_alone(optical_flow.read_motion),
    "raft": raft.read_motion,
    "store": read_stored_motion,
}
