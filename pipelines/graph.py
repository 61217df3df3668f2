"""The DALI pipeline: one function for all placements.

    feed --+-- pixels --- [NVDEC] --- crop, resize, mirror --- normalise --- video   [C, T, H, W]
           +-- motion ------------- crop, resize, mirror --- to crop pixels - motion [T, h, w, 2]
           +-- facts ---------------------------------------------------------------------------

Nothing is drawn here: the feed has drawn each clip's box, and the same box cuts pixels and motion.
"""

import numpy as np
from nvidia.dali import fn, types
from nvidia.dali.data_node import DataNode
from nvidia.dali.pipeline import Pipeline

from mgm_dali.clips.batch import IMAGENET_MEAN, IMAGENET_STD
from mgm_dali.config import CELL_PIXELS
from mgm_dali.pipelines.feed import ClipFeed
from mgm_dali.pipelines.placement import Placement

__all__ = ["GRAPH_OUTPUTS", "clip_pipeline"]

Box = tuple[DataNode, DataNode]
"""(top, left) and (bottom, right) in source pixels, float32 `[2]` a sample."""

GRAPH_OUTPUTS = ("video", "motion", "motion_valid", "facts", "reason")


def clip_pipeline(feed: ClipFeed, placement: Placement) -> Pipeline:
    """A built pipeline that gives `GRAPH_OUTPUTS` for one batch a run.

    The last two outputs stay on the host whatever the placement: they are read there.
    """
    data, cuda = feed.config.data, placement.device.type == "cuda"
    pipeline = Pipeline(
        batch_size=feed.share.batch_size,
        # NVDEC decodes one sample per thread: fewer threads than engines leave engines idle.
        num_threads=8 if placement.decode == "nvdec" else 2,
        device_id=placement.device.index if cuda else None,
        prefetch_queue_depth=data.prefetch_batches,
        py_num_workers=data.num_workers,
        py_start_method="spawn",  # fork is refused once CUDA is initialised
    )
    with pipeline:
        clip = _read(feed)
        pixels, motion, valid = clip["pixels"], clip["motion"], clip["motion_valid"]
        scale = clip["motion_scale"]
        if feed.encoded:
            # On a GPU this is NVDEC; DALI's CPU decoder knows VP8, VP9 and MJPEG only.
            decoder = "mixed" if cuda else "cpu"
            pixels = fn.decoders.video(
                pixels, device=decoder, frames=clip["frames"], pad_mode="none"
            )
        elif cuda:
            pixels = pixels.gpu()
        if cuda:  # boxes stay on the host: they are arguments, not data
            motion, valid, scale = motion.gpu(), valid.gpu(), scale.gpu()
        box = clip["box_start"], clip["box_end"]
        size = feed.config.model.image_size
        pipeline.set_outputs(
            _crop_video(pixels, box, size),
            _crop_motion(motion, box, size // CELL_PIXELS) * scale,
            valid,
            clip["facts"],
            clip["reason"],
        )
    pipeline.build()
    return pipeline


KINDS = {
    "pixels": (types.UINT8, 4, "FHWC"),
    "frames": (types.INT32, 1, ""),
    "motion": (types.INT16, 4, "FHWC"),
    "motion_valid": (types.UINT8, 1, ""),
    "box_start": (types.FLOAT, 1, ""),
    "box_end": (types.FLOAT, 1, ""),
    "motion_scale": (types.FLOAT, 1, ""),
    "facts": (types.INT64, 1, ""),
    "reason": (types.UINT8, 1, ""),
}
"""Type, number of dimensions and layout of each of the feed's outputs."""


def _read(feed: ClipFeed) -> dict[str, DataNode]:
    """The external-source operator: the feed's outputs by name."""
    kinds = dict(KINDS, pixels=(types.UINT8, 1, "")) if feed.encoded else KINDS
    dtypes, ndims, layouts = zip(*(kinds[name] for name in feed.outputs), strict=True)
    queue = feed.config.data.prefetch_batches if feed.config.data.num_workers else None
    nodes = fn.external_source(
        source=feed,
        num_outputs=len(feed.outputs),
        batch=False,
        parallel=feed.config.data.num_workers > 0,
        prefetch_queue_depth=queue,
        dtype=list(dtypes),
        ndim=list(ndims),
        layout=list(layouts),
    )
    return dict(zip(feed.outputs, nodes, strict=True))


def _crop_video(pixels: DataNode, box: Box, size: int) -> DataNode:
    """uint8 FHWC to normalised float32 CFHW of `size` x `size`; a box run backwards mirrors."""
    start, end = box
    resized = fn.resize(
        pixels,
        roi_start=start,
        roi_end=end,
        size=(size, size),
        interp_type=types.INTERP_LINEAR,
        antialias=False,
    )
    return fn.crop_mirror_normalize(
        resized,
        dtype=types.FLOAT,
        output_layout="CFHW",
        mean=[255 * value for value in IMAGENET_MEAN],
        std=[255 * value for value in IMAGENET_STD],
    )


def _crop_motion(motion: DataNode, box: Box, cells: int) -> DataNode:
    """int16 vectors on the source's 8x8 cells to float32 on the crop's own, values untouched.

    Nearest neighbour, because a vector between two others is the motion of neither.
    """
    start, end = box
    resized = fn.resize(
        motion,
        roi_start=start / np.float32(CELL_PIXELS),
        roi_end=end / np.float32(CELL_PIXELS),
        size=(cells, cells),
        interp_type=types.INTERP_NN,
    )
    return fn.cast(resized, dtype=types.FLOAT)
