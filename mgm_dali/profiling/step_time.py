"""Wall and CPU time of one step of the work."""

import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass

__all__ = ["StepTime", "mean_time", "timed"]


@dataclass(frozen=True)
class StepTime:
    """Time of one step of the work."""

    seconds: float
    cpu_seconds: float

    def __add__(self, other: "StepTime") -> "StepTime":
        return StepTime(self.seconds + other.seconds, self.cpu_seconds + other.cpu_seconds)

    def __mul__(self, factor: float) -> "StepTime":
        return StepTime(self.seconds * factor, self.cpu_seconds * factor)


def mean_time(taken: Sequence[StepTime]) -> StepTime:
    """The mean of both times."""
    return sum(taken, StepTime(0.0, 0.0)) * (1 / len(taken))


def timed(action: Callable[[], object]) -> StepTime:
    """What a call takes; CPU time of this thread alone."""
    begun, cpu_begun = time.perf_counter(), time.thread_time()
    action()
    return StepTime(time.perf_counter() - begun, time.thread_time() - cpu_begun)
