"""A few steps on a time line, as chrome://tracing and ui.perfetto.dev show it.

PyTorch's profiler writes what this process and the GPU do; a row for each worker process is added.
The same ranges are also given to NVTX, so that `nsys profile -t cuda,nvtx` shows them beside
DALI's own.
"""

import gzip
import json
import os
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch._C._autograd import DeviceType
from torch.profiler import ProfilerActivity, profile, record_function

from mgm_dali.clips.batch import ClipBatch
from mgm_dali.files import write_whole
from mgm_dali.profiling.clocks import now
from mgm_dali.training.engine import Engine
from mgm_dali.training.loop import Task

__all__ = ["Trace", "busy_share", "traced_steps", "worker_events", "write_time_line"]


@dataclass(frozen=True)
class Trace:
    """What a trace tells in numbers."""

    steps: int
    seconds: float
    gpu_busy_share: float | None
    """Of the time in which the GPU did anything, DALI's kernels included; None without one."""


def traced_steps(
    engine: Engine,
    task: Task,
    batches: Iterator[ClipBatch],
    steps: int,
    reads: Path,
) -> tuple[Trace, dict[str, Any]]:
    """Takes steps as a run does: what they tell, and the time line as a JSON object.

    `reads` is the folder of a `TracedFeed`. All ranks must call it.
    """
    device = engine.world.device
    activities = [ProfilerActivity.CPU]
    if device.type == "cuda":
        activities.append(ProfilerActivity.CUDA)
    profiler = profile(activities=activities)
    with _without_stderr():
        profiler.start()
    begun = now(device)
    for _ in range(steps):
        with _range("wait for clips", device):
            batch = next(batches)
        with _range("mask, forward", device):
            loss = task.loss(engine, batch)
        with _range("backward", device):
            engine.backward(loss)
        with _range("optimiser", device):
            engine.step()
    seconds = now(device) - begun
    with _without_stderr():
        profiler.stop()
    busy = None
    if device.type == "cuda":
        spans = [
            (event.time_range.start / 1e6, event.time_range.end / 1e6)
            for event in _events(profiler)
            if event.device_type == DeviceType.CUDA
        ]
        busy = busy_share(spans, seconds)
    return Trace(steps, seconds, busy), _time_line(profiler, reads)


def busy_share(spans: Iterable[tuple[float, float]], seconds: float) -> float:
    """The part of a time that is covered by spans (begin, end), which may overlap."""
    covered, reached = 0.0, float("-inf")
    for begin, end in sorted(spans):
        covered += max(end - max(begin, reached), 0.0)
        reached = max(reached, end)
    return min(covered / seconds, 1.0)


def worker_events(reads: Path, base_ns: int) -> list[dict[str, Any]]:
    """A row for each process that has read clips; times in microseconds after `base_ns`."""
    events: list[dict[str, Any]] = []
    for place, file in enumerate(sorted(reads.glob("*.txt"))):
        row = {"pid": "worker processes", "tid": int(file.stem)}
        name = f"reader {place + 1}"
        events.append({**row, "ph": "M", "name": "thread_name", "args": {"name": name}})
        for line in file.read_text().splitlines():
            begin, end = map(int, line.split())
            times = {"ts": (begin - base_ns) / 1e3, "dur": (end - begin) / 1e3}
            events.append({**row, **times, "ph": "X", "cat": "reading", "name": "read a clip"})
    return events


@contextmanager
def _without_stderr() -> Iterator[None]:
    """PyTorch's profiler says there that it starts and stops, and cannot be told not to."""
    kept, nowhere = os.dup(2), os.open(os.devnull, os.O_WRONLY)
    os.dup2(nowhere, 2)
    try:
        yield
    finally:
        os.dup2(kept, 2)
        os.close(kept)
        os.close(nowhere)


@contextmanager
def _range(name: str, device: torch.device) -> Iterator[None]:
    with record_function(name):
        if device.type != "cuda":
            yield
            return
        with torch.cuda.nvtx.range(name):
            yield


def _events(profiler: Any) -> Iterable[Any]:
    return profiler.events() or ()


def _time_line(profiler: Any, reads: Path) -> dict[str, Any]:
    path = reads / "steps.json"
    profiler.export_chrome_trace(os.fspath(path))
    line: dict[str, Any] = json.loads(path.read_bytes())
    line["traceEvents"] += worker_events(reads, line["baseTimeNanoseconds"])
    return line


def write_time_line(line: dict[str, Any], path: Path) -> None:
    """Keeps a time line, packed: both viewers read it so."""
    write_whole(path, gzip.compress(json.dumps(line).encode(), 6))
