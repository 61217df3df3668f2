"""What the pipeline does behind the worker processes, and the whole loader without a network.

    worker processes -> [hand over] -> [decode by NVDEC, copy, augment: DALI's graph] -> batch

The clips are read once and handed over again and again, so that reading takes no time.
"""

from collections.abc import Iterator
from dataclasses import dataclass
from functools import partial
from typing import Any

import numpy as np
import torch

from mgm_dali.config import RunConfig
from mgm_dali.pipelines.graph import partial_pipeline
from mgm_dali.pipelines.loader import ClipLoader
from mgm_dali.pipelines.pool import ClipPool, read_here
from mgm_dali.profiling.clocks import Spent, spent_by, stretch
from mgm_dali.profiling.feeds import NUM_REMEMBERED

__all__ = ["Feeding", "Graph", "measure_graph", "measure_loader"]

COPIES = 5


@dataclass(frozen=True)
class Graph:
    """What a batch takes behind the worker processes; each includes those before it."""

    hand_over: Spent
    """From the workers into the graph."""
    decode: Spent | None
    """And decoding in the graph, where NVDEC does it."""
    whole: Spent
    """And copying and augmenting: `make_loader` without reading."""
    on_gpu: bool
    copy_seconds: float
    """Of `whole`: the pixels of a batch on their way to the GPU."""


@dataclass(frozen=True)
class Feeding:
    """What batches take that are really read."""

    batches: Spent
    skipped: int
    shared_bytes: int
    """Memory in which worker processes hand over clips, at its highest."""


def measure_graph(loader: ClipLoader, seconds: float) -> Graph:
    """Times the graph of a loader that `make_feed=RememberingFeed` was given to."""
    feed, placement = loader.feed, loader.placement
    warm_up = _warm_up(feed.config, feed.decodings_per_batch, NUM_REMEMBERED)
    partial_seconds = seconds / (3 if feed.encoded else 2)

    def bare(*, decoder: bool) -> Spent:
        pool = ClipPool(feed) if feed.config.data.num_workers else None
        pipeline = partial_pipeline(feed, placement, pool or read_here(feed), decoder=decoder)
        try:
            return stretch(_runs(pipeline), warm_up, partial_seconds, placement.device)
        finally:
            del pipeline
            if pool:
                pool.close()

    hand_over = bare(decoder=False)
    decode = bare(decoder=True) if feed.encoded else None
    whole = stretch(loader.endless(), warm_up, partial_seconds, placement.device)
    loader.close()
    on_gpu = placement.device.type == "cuda"
    return Graph(hand_over, decode, whole, on_gpu, _copy_seconds(loader) if on_gpu else 0.0)


def measure_loader(loader: ClipLoader, seconds: float) -> Feeding:
    """Times a loader alone: as fast as its batches are taken, it makes new ones."""
    feed = loader.feed
    warm_up = _warm_up(feed.config, feed.decodings_per_batch, 1)
    spent = stretch(loader.endless(), warm_up, seconds, loader.placement.device)
    shared_bytes = loader.shared_bytes
    loader.close()
    return Feeding(spent, loader.num_skipped, shared_bytes)


def _warm_up(config: RunConfig, decodings: int, clips_a_worker: int) -> int:
    """Batches until the workers have begun, and all that was made ahead meanwhile is taken."""
    ahead = 2 * config.data.prefetch_batches + 1
    return ahead + -(-clips_a_worker * max(config.data.num_workers, 1) // decodings)


def _runs(pipeline: Any) -> Iterator[object]:
    while True:
        yield pipeline.run()


def _copy_seconds(loader: ClipLoader) -> float:
    device, feed = loader.placement.device, loader.feed
    sent = [feed.sample(feed.number_of(place)) for place in range(feed.decodings_per_batch)]
    pixels = [torch.from_numpy(np.ascontiguousarray(arrays[0])) for arrays in sent]
    copy = partial(_copy, pixels, device)
    copy()
    return spent_by(copy, COPIES, device).seconds / COPIES


def _copy(arrays: list[torch.Tensor], device: torch.device) -> None:
    for array in arrays:
        array.to(device)
