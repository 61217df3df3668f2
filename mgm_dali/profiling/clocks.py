"""Clocks: wall time, and CPU time of this process and all that it has started."""

import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass

import psutil
import torch

from mgm_dali.profiling.step_time import StepTime

__all__ = ["Spent", "cpu_seconds", "now", "spent_by", "stretch"]

LEAST_COUNTED = 3
LEAST_SECONDS = 0.5


@dataclass(frozen=True)
class Spent:
    """Time that a number of things took."""

    count: int
    seconds: float
    """From the first one's begin to the last one's end."""
    cpu_seconds: float
    """Of all threads and worker processes."""

    @property
    def each(self) -> StepTime:
        """The mean of one."""
        return StepTime(self.seconds, self.cpu_seconds) * (1 / self.count)

    def __add__(self, other: "Spent") -> "Spent":
        return Spent(
            self.count + other.count,
            self.seconds + other.seconds,
            self.cpu_seconds + other.cpu_seconds,
        )


def now(device: torch.device) -> float:
    """Seconds of a clock, once the device has done what it was given."""
    if device.type == "cuda":
        torch.cuda.synchronize(device)
    return time.perf_counter()


def cpu_seconds() -> float:
    """CPU time of this process, its descendants, and those they had; looking takes milliseconds."""
    this = psutil.Process()
    ended = this.cpu_times()
    total: float = time.process_time() + ended.children_user + ended.children_system
    for child in this.children(recursive=True):
        try:
            times = child.cpu_times()
        except psutil.Error:  # it has just ended
            continue
        # Of the whole process, in ticks of 10 ms: threads that have ended are not listed by name.
        total += times.user + times.system + times.children_user + times.children_system
    return total


def spent_by(action: Callable[[], object], count: int, device: torch.device) -> Spent:
    """What `count` calls take."""
    cpu_begun, begun = cpu_seconds(), now(device)
    for _ in range(count):
        action()
    cpu = cpu_seconds() - cpu_begun  # to wait for a GPU takes a core, and does nothing
    return Spent(count, now(device) - begun, cpu)


def stretch(
    batches: Iterator[object], warm_up: int, least: int, seconds: float, device: torch.device
) -> Spent:
    """What batches take that come one by one, after `warm_up` that are not counted.

    At least so many are counted, until `seconds` have gone by since the first was asked for. Where
    batches are slow there is less of both: none of them is there before it is asked for.
    """
    asked = time.perf_counter()
    end = asked + seconds
    for number in range(warm_up):
        if number > 1 and time.perf_counter() > end:
            break
        next(batches)
    cpu_begun, begun, count = cpu_seconds(), now(device), 0
    end = max(end, begun + LEAST_SECONDS)
    while count < max(least, LEAST_COUNTED) or time.perf_counter() < end:
        next(batches)
        count += 1
        if time.perf_counter() > end + seconds:
            break
    cpu = cpu_seconds() - cpu_begun
    return Spent(count, now(device) - begun, cpu)
