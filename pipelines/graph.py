"""The DALI pipeline: one function for all placements.

    feed --+-- pixels --- [NVDEC] --- RandAugment --- crop, resize, mirror --- normalise --- video
           +-- motion --------------------------- crop, resize, mirror --- to crop pixels - motion
           +-- facts -----------------------------------------------------------------------------

Nothing is drawn here: the feed has drawn each clip's box, and the same box cuts pixels and motion.
Of R clips that are cut out of one decoding (`augment.repeats`) only what is behind the decoder is
done R times; they lie one behind the other along the first axis, `[R * C, T, H, W]`.
"""

from collections.abc import Iterator
from typing import Any

import numpy as np
from nvidia.dali import fn, types
from nvidia.dali.data_node import DataNode
from nvidia.dali.pipeline import Pipeline, do_not_convert, pipeline_def

from mgm_dali.clips.batch import IMAGENET_MEAN, IMAGENET_STD
from mgm_dali.config import CELL_PIXELS
from mgm_dali.pipelines.feed import ClipFeed
from mgm_dali.pipelines.placement import Placement
from mgm_dali.pipelines.pool import Batch
from mgm_dali.pipelines.rand_augment import rand_augment
from mgm_dali.pipelines.resize import CUTTERS, Box

__all__ = ["GRAPH_OUTPUTS", "clip_pipeline", "partial_pipeline"]

GRAPH_OUTPUTS = ("video", "motion", "motion_known", "motion_valid", "facts", "reason")


def clip_pipeline(feed: ClipFeed, placement: Placement, batches: Iterator[Batch]) -> Pipeline:
    """A built pipeline that gives `GRAPH_OUTPUTS` for one batch a run; `batches` are the feed's.

    Of the D decodings of a batch come `video [D, R * C, T, S, S]` float32, `motion
    [D, R * T, S/8, S/8, 2]` float32, `motion_known [D, R * T, S/8, S/8, 1]`, `motion_valid [D, T]`,
    `facts [D, R, 9]` and `reason [D, bytes]`. The last two stay on the host whatever the placement:
    they are read there.
    """
    pipeline: Pipeline = _graph(
        feed, batches, placement.device.type, **_pipeline_options(feed, placement)
    )
    pipeline.build()
    return pipeline


def partial_pipeline(
    feed: ClipFeed, placement: Placement, batches: Iterator[Batch], *, decoder: bool
) -> Pipeline:
    """A built pipeline that hands clips over and does nothing more, or also decodes, to be timed.

    `decoder` is for feeds that deliver files; others have decoded already.
    """
    pipeline = Pipeline(**_pipeline_options(feed, placement))
    with pipeline:
        sent = external_source(feed, batches)
        if decoder:
            sent["pixels"] = _decoded(sent, placement.device.type)
        pipeline.set_outputs(*sent.values())
    pipeline.build()
    return pipeline


def _pipeline_options(feed: ClipFeed, placement: Placement) -> dict[str, Any]:
    return {
        "batch_size": feed.decodings_per_batch,
        # NVDEC decodes one sample per thread: fewer threads than engines leave engines idle.
        "num_threads": 8 if placement.decode == "nvdec" else 2,
        "device_id": placement.device.index if placement.device.type == "cuda" else None,
        "prefetch_queue_depth": feed.config.data.prefetch_batches,
    }


@pipeline_def(enable_conditionals=True)  # type: ignore[untyped-decorator]
def _graph(feed: ClipFeed, batches: Iterator[Batch], device: str) -> tuple[DataNode, ...]:
    """The operators; what is below depends on the feed and the device, not on any clip."""
    sent = external_source(feed, batches)
    pixels = _decoded(sent, device) if feed.encoded else _on(device, sent["pixels"])
    motion, known = _on(device, sent["motion"]), _on(device, sent["motion_known"])
    scale = _on(device, sent["motion_scale"])
    size = feed.config.model.image_size
    videos, motions, knowns = [], [], []
    for clip in range(feed.repeats):
        start, end = sent["box_start"][clip], sent["box_end"][clip]  # these stay on the host
        box = start - sent["origin"], end - sent["origin"]
        changed = pixels
        if feed.layers:
            changed = rand_augment(
                pixels, sent["operations"][clip], sent["levels"][clip], feed.layers
            )
        videos.append(_normalised(CUTTERS[device](changed, box, size)))
        vectors = _cut_cells(motion, (start, end), size // CELL_PIXELS)
        motions.append(fn.cast(vectors, dtype=types.FLOAT) * scale[clip])
        knowns.append(_cut_cells(known, (start, end), size // CELL_PIXELS))
    cut = _in_a_row(videos), _in_a_row(motions), _in_a_row(knowns)
    return *cut, _on(device, sent["motion_valid"]), sent["facts"], sent["reason"]


def _decoded(sent: dict[str, DataNode], device: str) -> DataNode:
    """By NVDEC on a GPU; DALI's CPU decoder knows VP8, VP9 and MJPEG only."""
    decoder = "mixed" if device == "cuda" else "cpu"
    return fn.decoders.video(sent["pixels"], device=decoder, frames=sent["frames"], pad_mode="none")


def _on(device: str, data: DataNode) -> DataNode:
    return data.gpu() if device == "cuda" else data


KINDS = {
    "pixels": (types.UINT8, 4, "FHWC"),
    "origin": (types.FLOAT, 1, ""),
    "frames": (types.INT32, 1, ""),
    "motion": (types.INT16, 4, "FHWC"),
    "motion_known": (types.UINT8, 4, "FHWC"),
    "motion_valid": (types.UINT8, 1, ""),
    "box_start": (types.FLOAT, 2, ""),
    "box_end": (types.FLOAT, 2, ""),
    "motion_scale": (types.FLOAT, 2, ""),
    "operations": (types.INT32, 2, ""),
    "levels": (types.INT32, 2, ""),
    "facts": (types.INT64, 2, ""),
    "reason": (types.UINT8, 1, ""),
}
"""Type, number of dimensions and layout of each of the feed's outputs."""


# Plain Python: DALI would rewrite it to look for conditions on data.
@do_not_convert  # type: ignore[untyped-decorator]
def external_source(feed: ClipFeed, batches: Iterator[Batch]) -> dict[str, DataNode]:
    """The external-source operator: the feed's outputs by name."""
    kinds = dict(KINDS, pixels=(types.UINT8, 1, "")) if feed.encoded else KINDS
    dtypes, ndims, layouts = zip(*(kinds[name] for name in feed.outputs), strict=True)
    nodes = fn.external_source(
        source=batches,
        num_outputs=len(feed.outputs),
        batch=True,
        dtype=list(dtypes),
        ndim=list(ndims),
        layout=list(layouts),
    )
    return dict(zip(feed.outputs, nodes, strict=True))


def _normalised(frames: DataNode) -> DataNode:
    """uint8 FHWC to float32 CFHW."""
    return fn.crop_mirror_normalize(
        frames,
        dtype=types.FLOAT,
        output_layout="CFHW",
        mean=[255 * value for value in IMAGENET_MEAN],
        std=[255 * value for value in IMAGENET_STD],
    )


def _cut_cells(plane: DataNode, box: Box, cells: int) -> DataNode:
    """What is known of the source's 8x8 cells for those of the crop, values untouched.

    Nearest neighbour, because a vector between two others is the motion of neither.
    """
    start, end = box
    return fn.resize(
        plane,
        roi_start=start / np.float32(CELL_PIXELS),
        roi_end=end / np.float32(CELL_PIXELS),
        size=(cells, cells),
        interp_type=types.INTERP_NN,
    )


def _in_a_row(clips: list[DataNode]) -> DataNode:
    return clips[0] if len(clips) == 1 else fn.cat(*clips, axis=0)
