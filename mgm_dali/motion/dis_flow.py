"""Motion by DIS optical flow on the CPU (Kroeger et al. 2016, arXiv 1603.03590), from OpenCV.

A vector for every other pixel, averaged over the cells: three times the time of block matching, as
near to the vectors of encoders, nearer in direction, and true to a part of a pixel. OpenCV comes
with the extra `dis`.
"""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import av
import numpy as np
from av.video.reformatter import VideoReformatter
from numpy.typing import NDArray

from mgm_dali.errors import UserError
from mgm_dali.motion.field import Grid, MotionField
from mgm_dali.motion.flow import cells_of_flow, grow_pictures
from mgm_dali.motion.neighbours import read_since_frame_before
from mgm_dali.video.opening import DECODING_ERRORS, VideoError
from mgm_dali.video.reader import FrameNumbers

__all__ = ["import_opencv", "read_motion"]

FINEST_SCALE = 1
"""Vectors at half of the size: told so, the fastest preset is as good as the medium one, in half of
its time. Its own quarter of the size blurs what moves into what does not."""
SAFE_PIXELS = 64
"""For smaller pictures OpenCV changes the settings of its estimator, and does not change them back:
what a pair gives would depend on those before."""


def read_motion(path: str | Path, frames: FrameNumbers | None = None) -> MotionField:
    """Estimates the motion of frames (all by default) since the frame before each.

    In the order asked; repeats are allowed. Frame 0 is not valid. Raises `UserError` if OpenCV is
    not installed, and `VideoError`.
    """
    cv2 = import_opencv()
    estimator = cv2.DISOpticalFlow_create(cv2.DISOPTICAL_FLOW_PRESET_ULTRAFAST)
    estimator.setFinestScale(FINEST_SCALE)
    to_grey = VideoReformatter()

    def prepare(frame: av.VideoFrame) -> NDArray[np.uint8]:
        try:
            image = to_grey.reformat(frame, format="gray").to_ndarray()
        except (*DECODING_ERRORS, ValueError) as error:
            reason = f"its {frame.format.name} pictures cannot be turned into grey: {error}"
            raise VideoError(path, reason) from error
        return np.ascontiguousarray(image, dtype=np.uint8)

    def compare(pairs: Sequence[tuple[NDArray[np.uint8], NDArray[np.uint8]]]) -> list[Grid]:
        grids = []
        for pair in pairs:
            height, width = pair[0].shape
            past, present = grow_pictures(np.stack(pair), smallest_pixels=SAFE_PIXELS)
            grids.append(cells_of_flow(estimator.calc(present, past, None)[:height, :width]))
        return grids

    return read_since_frame_before(path, frames, prepare=prepare, compare=compare)


def import_opencv() -> Any:
    """The module cv2. Raises `UserError` if it is not installed."""
    try:
        import cv2
    except ImportError as error:
        raise UserError(
            f"dis_flow needs OpenCV, which cannot be imported here ({error}); "
            "`pip install mgm-dali[dis]`, or take block_matching"
        ) from None
    cv2.setNumThreads(1)  # one process per core
    return cv2
