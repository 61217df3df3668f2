"""Motion of videos, from whichever source: `MOTION_SOURCES` is the whole list."""

from collections.abc import Callable
from pathlib import Path

from mgm_dali.motion import block_matching, codec
from mgm_dali.motion.codec import read_clip, read_motion
from mgm_dali.motion.field import MotionField
from mgm_dali.motion.store import read_stored_motion
from mgm_dali.video.reader import FrameNumbers

__all__ = ["MOTION_SOURCES", "MotionField", "MotionSource", "read_clip", "read_motion"]

MotionSource = Callable[[Path, FrameNumbers | None, Path | None], MotionField]
"""(video, its frames or None for all, folder of the motion store) to a field, in that order."""


def _from_codec(path: Path, frames: FrameNumbers | None, _store: Path | None) -> MotionField:
    return codec.read_motion(path, frames)


def _from_blocks(path: Path, frames: FrameNumbers | None, _store: Path | None) -> MotionField:
    return block_matching.read_motion(path, frames)


MOTION_SOURCES: dict[str, MotionSource] = {
    "codec": _from_codec,
    "block_matching": _from_blocks,
    "store": read_stored_motion,
}
