"""Wall and CPU time of one step of the work."""

import time
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass

__all__ = ["NO_TIME", "StepTime", "mean_time", "timed", "total_time"]


@dataclass(frozen=True)
class StepTime:
    """Time of one step of the work."""

    seconds: float
    cpu_seconds: float

    def __add__(self, other: "StepTime") -> "StepTime":
        return StepTime(self.seconds + other.seconds, self.cpu_seconds + other.cpu_seconds)

    def __mul__(self, factor: float) -> "StepTime":
        return StepTime(self.seconds * factor, self.cpu_seconds * factor)


NO_TIME = StepTime(0.0, 0.0)


def total_time(taken: Iterable[StepTime]) -> StepTime:
    """The sum of both times."""
    return sum(taken, NO_TIME)


def mean_time(taken: Sequence[StepTime]) -> StepTime:
    """The mean of both times."""
    return total_time(taken) * (1 / len(taken))


def timed(action: Callable[[], object]) -> StepTime:
    """What a call takes; CPU time of this thread alone."""
    begun, cpu_begun = time.perf_counter(), time.thread_time()
    action()
    return StepTime(time.perf_counter() - begun, time.thread_time() - cpu_begun)
