"""Motion by the optical flow hardware of NVIDIA GPUs, through DALI: one of the paper's ablations.

DALI gives the flow of a sequence from each frame to the one before, on the grid of the later frame:
it hands the later one to the driver as input and the earlier as reference, and its own tests expect
it so. Not yet run on a GPU by us.
"""

from collections.abc import Callable, Sequence
from functools import cache
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from mgm_dali.errors import UserError
from mgm_dali.launcher import local_rank
from mgm_dali.motion.field import Grid, MotionField
from mgm_dali.motion.flow import cells_of_flow, grow_pictures
from mgm_dali.motion.neighbours import read_since_frame_before
from mgm_dali.video.opening import VideoError
from mgm_dali.video.reader import FrameNumbers
from mgm_dali.video.rgb import RgbConverter

if TYPE_CHECKING:
    from nvidia.dali.data_node import DataNode
    from nvidia.dali.pipeline import Pipeline

__all__ = ["PIXELS_PER_VECTOR", "make_pipeline", "read_motion", "read_motion_with", "require_gpu"]

PIXELS_PER_VECTOR = 4
"""The finest grid that all of this hardware has, Turing's too; two by two vectors make a cell."""
SAFE_PIXELS = 256
"""Pictures below a size that only the driver knows are refused; what is smaller than this is grown.
"""
PAIRS_AT_ONCE = 16
INSTEAD = "dis_flow and block_matching run on the CPU"


def read_motion(path: str | Path, frames: FrameNumbers | None = None) -> MotionField:
    """Estimates the motion of frames (all by default) since the frame before each.

    In the order asked; repeats are allowed. Frame 0 is not valid. The pipeline stays in this
    process. Raises `UserError` if there is no GPU or no DALI, and `VideoError`.
    """
    return read_motion_with(_pipeline_on_gpu(), path, frames)


def read_motion_with(
    pipeline: "Pipeline", path: str | Path, frames: FrameNumbers | None = None
) -> MotionField:
    """As `read_motion`, by a pipeline of `make_pipeline`."""

    def compare(pairs: Sequence[tuple[NDArray[np.uint8], NDArray[np.uint8]]]) -> list[Grid]:
        height, width = pairs[0][0].shape[:2]
        rows, columns = -(-height // PIXELS_PER_VECTOR), -(-width // PIXELS_PER_VECTOR)
        sequences = [grow_pictures(np.stack(pair), smallest_pixels=SAFE_PIXELS) for pair in pairs]
        try:
            pipeline.feed_input("pairs", sequences)
            (flows,) = pipeline.run()
            flows = flows.as_cpu()
        except RuntimeError as error:
            _pipeline_on_gpu.cache_clear()  # after an error, a pipeline may give anything
            reason = f"the GPU gave no optical flow for it: {_in_a_line(error)}; {INSTEAD}"
            raise VideoError(path, reason) from error
        return [
            cells_of_flow(
                np.asarray(flows.at(number))[0, :rows, :columns],
                pixels_per_vector=PIXELS_PER_VECTOR,
            )
            for number in range(len(pairs))
        ]

    return read_since_frame_before(
        path, frames, prepare=RgbConverter(path), compare=compare, pairs_at_once=PAIRS_AT_ONCE
    )


def make_pipeline(flow_of: "Callable[[DataNode], DataNode]", device_id: int | None) -> "Pipeline":
    """A built DALI pipeline from "pairs" to `flow_of` each, up to `PAIRS_AT_ONCE` of them a run.

    A pair is uint8 FHWC, RGB, the earlier frame first; its flow is float32
    `[1, ceil(H / 4), ceil(W / 4), 2]`, pixels, of the later frame to the earlier.
    """
    from nvidia.dali import fn, types
    from nvidia.dali.pipeline import Pipeline

    pipeline = Pipeline(
        batch_size=PAIRS_AT_ONCE, num_threads=1, device_id=device_id, prefetch_queue_depth=1
    )
    with pipeline:
        pairs = fn.external_source(name="pairs", dtype=types.UINT8, ndim=4, layout="FHWC")
        pipeline.set_outputs(flow_of(pairs))
    pipeline.build()
    return pipeline


def require_gpu() -> int:
    """The number of GPUs. Raises `UserError` if there is none, or no DALI."""
    try:
        from nvidia.dali import backend
    except ImportError as error:
        raise UserError(
            f"optical_flow needs NVIDIA DALI, which cannot be imported here ({error}); "
            f"`pip install mgm-dali[cuda13]`; {INSTEAD}"
        ) from None
    num_gpus = int(backend.GetCUDADeviceCount())  # type: ignore[attr-defined]
    if not num_gpus:
        raise UserError(
            "optical_flow runs on the optical flow hardware of an NVIDIA GPU, and DALI finds no "
            f"GPU here; {INSTEAD}"
        )
    return num_gpus


@cache
def _pipeline_on_gpu() -> "Pipeline":
    num_gpus = require_gpu()
    from nvidia.dali import fn

    return make_pipeline(
        lambda pairs: fn.optical_flow(pairs.gpu(), output_grid=PIXELS_PER_VECTOR),
        device_id=local_rank() % num_gpus,
    )


def _in_a_line(error: Exception) -> str:
    return " ".join(str(error).split())[:300]
