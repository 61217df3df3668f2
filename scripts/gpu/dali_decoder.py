"""DALI's video decoder alone, NVDEC or the CPU's, and how far its frames are from PyAV's."""

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from nvidia.dali import fn, types
from nvidia.dali.pipeline import Pipeline

from mgm_dali.video.frame_index import index_of
from mgm_dali.video.reader import read_frames

__all__ = [
    "Comparison",
    "Pixels",
    "batches_of",
    "compared",
    "decode",
    "decoding_pipeline",
    "reference_frames",
]

Pixels = NDArray[np.uint8]
"""`[T, H, W, 3]`."""
NEIGHBOURS = (-2, -1, 1, 2)


@dataclass(frozen=True)
class Comparison:
    """Found frames against those of the same numbers that PyAV gives."""

    num_frames: int
    foreign: tuple[int, ...]
    """Numbers of frames that look more like a neighbour of the one that was asked for."""
    mean: float
    """Difference in levels of 255, over all."""
    worst: float
    """The same, of the worst frame."""

    @property
    def is_same(self) -> bool:
        """The right frames, and their pixels within a level in the mean."""
        return not self.foreign and self.mean < 1.0 and self.worst < 2.0

    def columns(self) -> dict[str, object]:
        """For a table."""
        foreign = " ".join(map(str, self.foreign[:10])) or "none"
        numbers = {"mean levels off": self.mean, "worst frame": self.worst}
        return {"frames": self.num_frames, "foreign": foreign, **numbers}

    def __str__(self) -> str:
        foreign = f"; foreign: {self.foreign[:10]}" if self.foreign else ""
        return (
            f"{self.num_frames} frames, {self.mean:.3f} levels off, the worst {self.worst:.3f}"
            f"{foreign}"
        )


def decoding_pipeline(
    source: Callable[[], tuple[list[Any], list[Any]]],
    *,
    decoder: str,
    batch_size: int,
    num_threads: int,
    pinned: bool = True,
) -> Pipeline:
    """A built pipeline from (bytes of files, frame numbers of each) to frames, FHWC.

    `decoder` is `mixed` for NVDEC, or `cpu`; `pinned` threads keep to a core.
    """
    device_id = 0 if decoder == "mixed" else None
    more: dict[str, Any] = {"affine": pinned} if decoder == "mixed" else {}
    pipeline = Pipeline(batch_size, num_threads, device_id, prefetch_queue_depth=2)
    with pipeline:
        encoded, frames = fn.external_source(
            source, num_outputs=2, batch=True, dtype=[types.UINT8, types.INT32], ndim=[1, 1]
        )
        pixels = fn.decoders.video(encoded, device=decoder, frames=frames, pad_mode="none", **more)
        pipeline.set_outputs(pixels)
    pipeline.build()
    return pipeline


def batches_of(pipeline: Pipeline) -> Iterator[int]:
    """Runs it without end; gives the number of clips of each batch."""
    while True:
        yield len(pipeline.run()[0])


def decode(
    paths: Sequence[Path], numbers: Sequence[Sequence[int]], decoder: str, num_threads: int = 8
) -> list[Pixels]:
    """Frames of some files, decoded as one batch. Raises `RuntimeError` as DALI does."""
    encoded = [np.fromfile(path, np.uint8) for path in paths]
    frames = [np.array(each, np.int32) for each in numbers]
    pipeline = decoding_pipeline(
        lambda: (encoded, frames),
        decoder=decoder,
        batch_size=len(paths),
        num_threads=num_threads,
    )
    (found,) = pipeline.run()
    found = found.as_cpu()
    return [np.array(found.at(place)) for place in range(len(paths))]


def reference_frames(path: Path) -> Pixels:
    """All frames of a file by PyAV, in the order in which they are shown."""
    return read_frames(path, range(len(index_of(path).pts)))


def compared(found: Pixels, reference: Pixels, numbers: Sequence[int]) -> Comparison:
    """`reference` are all frames of the file. Raises `ValueError` if shapes differ."""
    expected = (len(numbers), *reference.shape[1:])
    if found.shape != expected:
        raise ValueError(f"frames of shape {found.shape}, expected {expected}")
    distances, foreign = [], []
    for frame, number in zip(found, numbers, strict=True):
        own = _distance(frame, reference[number])
        distances.append(own)
        others = {number + step for step in NEIGHBOURS} & set(range(len(reference)))
        if any(_distance(frame, reference[other]) < own for other in others):
            foreign.append(number)
    mean, worst = float(np.mean(distances)), float(np.max(distances))
    return Comparison(len(numbers), tuple(foreign), mean, worst)


def _distance(one: Pixels, other: Pixels) -> float:
    return float(np.abs(one.astype(np.int16) - other).mean())
