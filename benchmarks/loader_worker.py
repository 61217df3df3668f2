"""What `loader.py` times: whole loaders, each in a process of its own with its workers.

    stdin    {"task": "ours", "arguments": {"stretch": {...}, "clips": [...], ...}}
    stdout   {"cpu_seconds": 5.1, "wall_seconds": 2.9, "first_seconds": 3.0, "frames": 1024}

A task gives batches without end, as the number of clips in each. The first batch is waited for,
some more warm up, then the clocks run. They stop when as many batches as were asked for have come:
at both times the workers are as far ahead, so that what they did in between is what these took.
"""

import sys
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

from peer_worker import answer_orders

# Peers borrow the project's installed packages, the project itself is beside this folder.
sys.path.append(str(Path(__file__).parents[1]))

CLIP_FRAMES = 16
IMAGE_SIZE = 224


@dataclass(frozen=True)
class Stretch:
    """How much is measured, and with how many processes."""

    batch_size: int
    num_workers: int
    num_warm_up: int
    num_batches: int


Clips = list[dict[str, Any]]
"""What is shown, in this order: manifest row, path, frame numbers, box."""


def ours(
    stretch: Stretch, clips: Clips, config: dict[str, Any], stage: Any, repeats: int = 1
) -> Iterator[int]:
    """Our loader as it is; raises `ValueError` if it shows other clips than were planned."""
    from mgm_dali.config import RunConfig
    from mgm_dali.pipelines import Share, make_loader

    if repeats > 1:
        config = {**config, "augment": {**config["augment"], "repeats": repeats}}
    loader = make_loader(RunConfig.model_validate(config), stage, Share(stretch.batch_size))
    rows = [clip["row"] for clip in clips]
    for number, batch in enumerate(loader):
        found = batch.index.tolist()
        start, count = number * stretch.batch_size // repeats, stretch.batch_size // repeats
        if list(dict.fromkeys(found)) != rows[start : start + count]:
            raise ValueError(f"batch {number} shows other clips than planned: rows {found}")
        yield _checked(batch.video)


def transport(stretch: Stretch, clips: Clips, config: dict[str, Any]) -> Iterator[int]:
    """Our loader without decoding, cropping and normalising: what is left is to hand clips over."""
    del clips
    import torch

    from mgm_dali.config import RunConfig
    from mgm_dali.pipelines import Share, graph
    from mgm_dali.pipelines.feed import ClipFeed
    from mgm_dali.pipelines.placement import Placement
    from mgm_dali.pipelines.pool import ClipPool
    from mgm_dali.profiling.feeds import NUM_REMEMBERED, RememberingFeed
    from mgm_dali.video.manifest import read_manifest

    parsed = RunConfig.model_validate(config)
    manifest = read_manifest(config["data"]["train"])
    arguments = manifest, parsed, "pretrain", Share(stretch.batch_size)
    reader = ClipFeed(*arguments, motion_source="codec")
    samples = [reader.sample(reader.number_of(place)) for place in range(NUM_REMEMBERED)]
    feed = RememberingFeed(*arguments, motion_source="codec", remembered=samples)
    placement = Placement(torch.device("cpu"), "cpu", "codec", "as all others here")
    pipeline = graph.partial_pipeline(feed, placement, ClipPool(feed), decoder=False)
    while True:
        pixels = pipeline.run()[0]
        yield len(pixels)


def decode(stretch: Stretch, clips: Clips) -> Iterator[int]:
    """Our frames and motion, read one clip after the other in this process and thrown away."""
    from mgm_dali.motion import read_clip

    for start in range(0, len(clips), stretch.batch_size):
        batch = clips[start : start + stretch.batch_size]
        for clip in batch:
            read_clip(clip["path"], clip["frames"])
        yield len(batch)


def videomae(stretch: Stretch, clips: Clips) -> Iterator[int]:
    """decord, Pillow and PyTorch's loader, as VideoMAE's pretraining puts them together."""
    import decord  # noqa: F401  # before workers start: if it is missing, that is the reason
    from peer_loaders import read_with_decord, torch_batches

    read = partial(read_with_decord, size=IMAGE_SIZE)
    for video, _ in torch_batches(clips, read, stretch.batch_size, stretch.num_workers):
        yield _checked(video)


def torchcodec(stretch: Stretch, clips: Clips, antialias: bool) -> Iterator[int]:
    """torchcodec, torchvision and PyTorch's loader."""
    import torchcodec.decoders  # noqa: F401  # as above
    from peer_loaders import read_with_torchcodec, torch_batches

    read = partial(read_with_torchcodec, size=IMAGE_SIZE, antialias=antialias)
    for (video,) in torch_batches(clips, read, stretch.batch_size, stretch.num_workers):
        yield _checked(video)


TASKS: dict[str, Callable[..., Iterator[int]]] = {
    "ours": ours,
    "transport": transport,
    "decode": decode,
    "videomae": videomae,
    "torchcodec": torchcodec,
}


def measure(task: str, arguments: dict[str, Any]) -> dict[str, float]:
    """CPU and wall seconds of a steady stretch of batches, of this process and those it started."""
    stretch = Stretch(**arguments.pop("stretch"))
    started = time.perf_counter()
    batches = TASKS[task](stretch, **arguments)
    next(batches)
    first_seconds = time.perf_counter() - started
    from mgm_dali.profiling.clocks import cpu_seconds  # not before: it takes PyTorch along

    for _ in range(stretch.num_warm_up - 1):
        next(batches)
    wall_start, cpu_start = time.perf_counter(), cpu_seconds()
    num_clips = sum(next(batches) for _ in range(stretch.num_batches))
    return {
        "cpu_seconds": cpu_seconds() - cpu_start,
        "wall_seconds": time.perf_counter() - wall_start,
        "first_seconds": first_seconds,
        "frames": num_clips * CLIP_FRAMES,
    }


def _checked(video: Any) -> int:
    """The clips of a batch, if it is what all have to give."""
    found = str(video.dtype), *video.shape[1:]
    if found != ("torch.float32", 3, CLIP_FRAMES, IMAGE_SIZE, IMAGE_SIZE):
        raise ValueError(f"gave a batch of {found}")
    return len(video)


if __name__ == "__main__":
    answer_orders(measure)
