"""Clocks: wall time, and CPU time of this process and all that it has started."""

import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass

import psutil
import torch

__all__ = ["Spent", "cpu_seconds", "cpu_seconds_of_all", "now", "spent_by", "stretch"]


@dataclass(frozen=True)
class Spent:
    """Time that a number of things took."""

    count: int
    seconds: float
    """From the first one's begin to the last one's end."""
    cpu_seconds: float
    """Of all threads and worker processes."""

    def each(self) -> tuple[float, float]:
        """Wall and CPU seconds of one."""
        return self.seconds / self.count, self.cpu_seconds / self.count


def now(device: torch.device) -> float:
    """Seconds of a clock, once the device has done what it was given."""
    if device.type == "cuda":
        torch.cuda.synchronize(device)
    return time.perf_counter()


def cpu_seconds() -> float:
    """CPU time of this process and its descendants since they began."""
    this = psutil.Process()
    found = []
    for process in (this, *this.children(recursive=True)):
        try:
            found.append(process.cpu_times())
        except psutil.Error:  # it has just ended
            continue
    total: float = sum(t.user + t.system + t.children_user + t.children_system for t in found)
    return total


def cpu_seconds_of_all() -> float:
    """CPU time of all programs of this machine since it began."""
    times = psutil.cpu_times()
    total: float = times.user + times.nice + times.system
    return total


def spent_by(action: Callable[[], object], count: int, device: torch.device) -> Spent:
    """What `count` calls take."""
    begun, cpu_begun = now(device), cpu_seconds()
    for _ in range(count):
        action()
    return Spent(count, now(device) - begun, cpu_seconds() - cpu_begun)


def stretch(batches: Iterator[object], warm_up: int, seconds: float, device: torch.device) -> Spent:
    """What batches take that come one by one, after some that are not counted.

    At least 3 are counted, until `seconds` have gone by, `warm_up` included.
    """
    begun = time.perf_counter()
    for _ in range(warm_up):
        next(batches)
    started, cpu_started, count = now(device), cpu_seconds(), 0
    while count < 3 or time.perf_counter() - begun < seconds:
        next(batches)
        count += 1
    return Spent(count, now(device) - started, cpu_seconds() - cpu_started)
