"""A few steps on a time line, as chrome://tracing and ui.perfetto.dev show it.

PyTorch's profiler writes what this process and the GPU do; a row for each worker process is added.
The same ranges are also given to NVTX, so that `nsys profile -t cuda,nvtx` shows them beside
DALI's own.
"""

import gzip
import json
import os
import time
from collections.abc import Iterable, Iterator
from contextlib import AbstractContextManager, contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch.profiler import ProfilerActivity, profile, record_function

from mgm_dali.clips.batch import ClipBatch
from mgm_dali.files import write_whole
from mgm_dali.profiling.clocks import now
from mgm_dali.profiling.computing import take_pass
from mgm_dali.training.engine import Engine
from mgm_dali.training.loop import Task

__all__ = [
    "Trace",
    "busy_share",
    "top_operators",
    "traced_passes",
    "worker_events",
    "write_time_line",
]

FIRST_RANGE = "wait for clips"
NUM_OPERATORS = 8
OPERATORS = ("aten::", "triton", "graph_")
"""How PyTorch's own begin, and what torch.compile makes on a GPU and on a CPU."""
GPU_WORK = ("kernel", "gpu_memcpy", "gpu_memset")
"""Categories of events in which a GPU does something; ranges that people name are others."""


@dataclass(frozen=True)
class Trace:
    """What a trace tells in numbers."""

    passes: int
    seconds: float
    gpu_busy_share: float | None
    """Of the time in which the GPU did anything, DALI's kernels included; None without one."""
    operators: dict[str, float]
    """Of PyTorch's, those that take most time themselves, as shares of that of all."""


def traced_passes(
    engine: Engine, task: Task, batches: Iterator[ClipBatch], passes: tuple[int, int], reads: Path
) -> tuple[Trace, dict[str, Any]]:
    """Takes passes as a run does: what they tell, and the time line as a JSON object.

    `passes`: those that use up what became ready while the profiler started, and those that count.
    `reads` is the folder of a `TracedFeed`. All ranks must call it.
    """
    device = engine.world.device
    activities = [ProfilerActivity.CPU]
    if device.type == "cuda":
        activities.append(ProfilerActivity.CUDA)

    def around(name: str) -> AbstractContextManager[None]:
        return _range(name, device)

    profiler = profile(activities=activities)
    with _without_stderr():
        profiler.start()
    warm_up, count = passes
    for number in range(warm_up + count):
        if number == warm_up:
            begun, begun_ns = now(device), time.time_ns()
        with around(FIRST_RANGE):
            batch = next(batches)
        take_pass(engine, task, batch, around)
    seconds = now(device) - begun
    with _without_stderr():
        profiler.stop()
    line = _time_line(profiler, reads)
    begun_us = (begun_ns - line["baseTimeNanoseconds"]) / 1e3
    work = [
        (event["ts"], event["ts"] + event["dur"])
        for event in line["traceEvents"]
        if event.get("cat") in GPU_WORK and event["ts"] >= begun_us
    ]
    # None where CUPTI gives nothing: without a GPU, or under another profiler.
    busy = busy_share(work, 1e6 * seconds) if work else None
    return Trace(count, seconds, busy, top_operators(profiler.key_averages(), device)), line


def top_operators(averages: Iterable[Any], device: torch.device) -> dict[str, float]:
    """Shares of time that operators take themselves, on the device; the largest few, in order."""
    kind = "self_device_time_total" if device.type == "cuda" else "self_cpu_time_total"
    own = {each.key: getattr(each, kind) for each in averages if each.key.startswith(OPERATORS)}
    largest = sorted(own, key=lambda name: -own[name])[:NUM_OPERATORS]
    whole = sum(own.values())
    return {name.removeprefix("aten::"): own[name] / whole for name in largest if own[name]}


def busy_share(spans: Iterable[tuple[float, float]], seconds: float) -> float:
    """The part of a time that is covered by spans (begin, end), which may overlap."""
    covered, reached = 0.0, float("-inf")
    for begin, end in sorted(spans):
        covered += max(end - max(begin, reached), 0.0)
        reached = max(reached, end)
    return min(covered / seconds, 1.0)


def worker_events(reads: Path, base_ns: int, first: float) -> list[dict[str, Any]]:
    """A row for each process that has read clips; times in microseconds after `base_ns`.

    What was over before `first`, such a time, is left out.
    """
    events: list[dict[str, Any]] = []
    for place, file in enumerate(sorted(reads.glob("*.txt"))):
        row = {"pid": "worker processes", "tid": int(file.stem)}
        name = f"reader {place + 1}"
        events.append({**row, "ph": "M", "name": "thread_name", "args": {"name": name}})
        for line in file.read_text().splitlines():
            begin, end = map(int, line.split())
            times = {"ts": (begin - base_ns) / 1e3, "dur": (end - begin) / 1e3}
            if times["ts"] + times["dur"] >= first:
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


def _time_line(profiler: Any, reads: Path) -> dict[str, Any]:
    path = reads / "steps.json"
    profiler.export_chrome_trace(os.fspath(path))
    line: dict[str, Any] = json.loads(path.read_bytes())
    first = min(event["ts"] for event in line["traceEvents"] if event.get("name") == FIRST_RANGE)
    line["traceEvents"] += worker_events(reads, line["baseTimeNanoseconds"], first)
    return line


def write_time_line(line: dict[str, Any], path: Path) -> None:
    """Keeps a time line, packed: both viewers read it so."""
    write_whole(path, gzip.compress(json.dumps(line).encode(), 6))
