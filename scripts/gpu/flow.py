"""G9: the optical flow hardware: which grids and presets it has, how fast, and on which scale."""

from collections.abc import Callable, Iterator
from dataclasses import replace
from itertools import product
from typing import Any

import numpy as np
from numpy.typing import NDArray
from nvidia.dali import fn, types
from nvidia.dali.pipeline import Pipeline
from translation import where_it_was
from videos import Clip, medians

from gpu.findings import Findings
from gpu.measuring import rate_of, synchronizer
from gpu.setting import Setting
from mgm_dali.motion import MOTION_SOURCES, optical_flow

__all__ = ["flow", "flow_pipeline"]

GRIDS, PRESETS = (1, 2, 4), (0.0, 0.5, 1.0)
PAN = (3, -2)
TOLERANCE_PIXELS = 0.5
FlowOf = Callable[[Any], Any]
"""From frames FHWC, a node of DALI, to their flow `[F - 1, H / grid, W / grid, 2]`."""


def flow(setting: Setting, findings: Findings) -> None:
    """Clips of 16 frames of a picture that moves as a whole."""
    width, height, num_frames = setting.pick((320, 256, 16), (96, 64, 3))
    start = setting.pick((40, 100), (8, 10))
    clip = Clip(width=width, height=height, start=start, velocity=PAN, pan=PAN)
    frames = np.stack(list(replace(clip, num_frames=num_frames).frames()))
    batch = setting.pick(8, 1)
    for grid, preset in setting.pick(tuple(product(GRIDS, PRESETS)), ((4, 0.0),)):
        known = {"grid": grid, "preset": preset, "size": f"{width}x{height}", "batch": batch}
        with findings.row("optical flow", known) as row:
            pipeline = flow_pipeline(_operator(setting, grid, preset), setting.device_id, batch)
            batches = _batches(pipeline, [frames] * batch)
            next(batches)
            rate = rate_of(batches, setting.pick(2.0, 0.1), synchronizer(setting))
            row |= {**rate.columns(), **_found(pipeline, [frames] * batch)}
    if setting.on_gpu:
        _as_a_source(findings)


def flow_pipeline(flow_of: FlowOf, device_id: int | None, batch: int) -> Pipeline:
    """A built pipeline from "frames" to their flow."""
    pipeline = Pipeline(batch, num_threads=1, device_id=device_id, prefetch_queue_depth=1)
    with pipeline:
        frames = fn.external_source(name="frames", dtype=types.UINT8, ndim=4, layout="FHWC")
        pipeline.set_outputs(flow_of(frames))
    pipeline.build()
    return pipeline


def _operator(setting: Setting, grid: int, preset: float) -> FlowOf:
    if setting.on_gpu:
        return lambda frames: fn.optical_flow(frames.gpu(), output_grid=grid, preset=preset)

    def by_translation(frames: NDArray[np.uint8]) -> NDArray[np.float32]:
        count, height, width = frames.shape[:3]
        found = np.empty((count - 1, -(-height // grid), -(-width // grid), 2), np.float32)
        for place in range(count - 1):
            found[place] = where_it_was(frames[place + 1], frames[place])
        return found

    return lambda frames: fn.python_function(frames, function=by_translation)


def _batches(pipeline: Pipeline, clips: list[NDArray[np.uint8]]) -> Iterator[int]:
    while True:
        pipeline.feed_input("frames", clips)
        yield len(pipeline.run()[0])


def _found(pipeline: Pipeline, clips: list[NDArray[np.uint8]]) -> dict[str, object]:
    """The median vector, which is pixels if it is minus the motion, and how many are near it."""
    pipeline.feed_input("frames", clips)
    vectors = np.array(pipeline.run()[0].as_cpu().at(0)).reshape(-1, 2)
    middle = np.median(vectors, axis=0)
    near = np.abs(vectors + PAN).max(axis=1) <= TOLERANCE_PIXELS
    return {
        "median vector": f"({middle[0]:.2f}, {middle[1]:.2f})",
        "minus the motion": f"({-PAN[0]}, {-PAN[1]})",
        "share within 0.5": near.mean(),
    }


def _as_a_source(findings: Findings) -> None:
    """The motion source that the project has of it, which turns it the right way round."""
    still, moving = (1, -2), (-3, 2)
    clip = Clip(width=320, height=256, start=(120, 90), velocity=moving, pan=still, num_frames=16)
    with findings.claim("`motion.source: optical_flow` finds known motion, and its sign") as found:
        field = MOTION_SOURCES["optical_flow"](clip.path(), None, None)
        far = 0.0
        for number in np.flatnonzero(field.valid):
            for vector, true in zip(
                medians(clip, field, int(number)), (moving, still), strict=True
            ):
                far = max(far, float(np.abs(vector - true).max()))
        found.append(f"medians at most {far:.2f} pixels off in {field.valid.sum()} frames")
        if far > TOLERANCE_PIXELS or field.valid.sum() != clip.num_frames - 1:
            raise ValueError("not the motion that was made")
    findings.note(f"the source takes a vector for {optical_flow.PIXELS_PER_VECTOR} pixels a side")
