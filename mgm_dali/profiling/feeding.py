"""What the pipeline does behind the worker processes, and the whole loader without a network.

    worker processes -> [hand over] -> [decode by NVDEC, copy, augment: DALI's graph] -> batch

For the graph, a few clips that were read before are handed over again and again: reading takes no
time.
"""

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch

from mgm_dali.clips.batch import ClipBatch
from mgm_dali.pipelines.feed import ClipFeed
from mgm_dali.pipelines.graph import partial_pipeline
from mgm_dali.pipelines.loader import ClipLoader
from mgm_dali.pipelines.pool import ClipPool, read_here
from mgm_dali.pipelines.recovery import pipeline_stopped
from mgm_dali.profiling.clocks import Spent, spent_by, stretch
from mgm_dali.profiling.feeds import RememberingFeed
from mgm_dali.profiling.reading import drop_files

__all__ = ["Feeding", "Graph", "measure_graph", "measure_loader"]

COPIES = 5
ROUNDS_OF_WORKERS = 3
"""Clips of every worker that are counted at least: they come in bursts."""


@dataclass(frozen=True)
class Graph:
    """What a batch takes behind the worker processes; each includes those before it."""

    hand_over: Spent
    """From the workers into the graph."""
    decode: Spent | None
    """And decoding in the graph, where NVDEC does it."""
    whole: Spent
    """And copying and augmenting: `make_loader` without reading."""
    copy_seconds: float
    """Of `whole`: the pixels of a batch on their way to a GPU; 0 on a CPU and with NVDEC."""
    on_gpu: bool


@dataclass(frozen=True)
class Feeding:
    """What batches take that are really read."""

    batches: Spent
    skipped: int


def measure_graph(loader: ClipLoader, seconds: float) -> Graph:
    """Times the graph of a loader whose `RememberingFeed` has all samples that it hands over."""
    feed, placement = loader.feed, loader.placement
    assert isinstance(feed, RememberingFeed), "else reading would be timed too"
    own = seconds / (3 if feed.encoded else 2)

    def bare(*, decoder: bool) -> Spent:
        pool = ClipPool(feed) if feed.config.data.num_workers else None
        pipeline = None
        try:
            pipeline = partial_pipeline(feed, placement, pool or read_here(feed), decoder=decoder)
            return stretch(_runs(pipeline), *_counts(feed), own, placement.device)
        except RuntimeError as error:
            raise pipeline_stopped(error, nvdec=decoder) from error
        finally:
            del pipeline
            if pool:
                pool.close()

    hand_over = bare(decoder=False)
    decode = bare(decoder=True) if feed.encoded else None
    whole = stretch(loader.endless(), *_counts(feed), own, placement.device)
    loader.close()
    on_gpu = placement.device.type == "cuda"
    copied = _copy_seconds(feed, placement.device) if on_gpu and not feed.encoded else 0.0
    return Graph(hand_over, decode, whole, copied, on_gpu)


def measure_loader(loader: ClipLoader, seconds: float) -> tuple[Feeding, ClipBatch]:
    """Times a loader alone, as fast as its batches are taken; and one of its batches."""
    drop_files(loader.feed)
    batches = loader.endless()
    spent = stretch(batches, *_counts(loader.feed), seconds, loader.placement.device)
    batch = next(batches)
    loader.close()
    return Feeding(spent, loader.num_skipped), batch


def _counts(feed: ClipFeed) -> tuple[int, int]:
    """Batches that warm up, until all that was made ahead is taken, and that count at least."""
    data = feed.config.data
    return 2 * data.prefetch_batches + 1, -(
        -ROUNDS_OF_WORKERS * max(data.num_workers, 1) // feed.decodings_per_batch
    )


def _runs(pipeline: Any) -> Iterator[object]:
    while True:
        yield pipeline.run()


def _copy_seconds(feed: ClipFeed, device: torch.device) -> float:
    """Of a batch's pixels, from memory that the GPU can read by itself."""
    sent = [feed.sample(feed.number_of(place))[0] for place in range(feed.decodings_per_batch)]
    pinned = [torch.from_numpy(np.array(pixels)).pin_memory() for pixels in sent]

    def copy() -> None:
        for pixels in pinned:
            pixels.to(device, non_blocking=True)

    copy()
    return spent_by(copy, COPIES, device).seconds / COPIES
