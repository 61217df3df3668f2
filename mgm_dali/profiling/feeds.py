"""Feeds to time a pipeline with: one that only remembers, and one that writes down what it did."""

import os
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from numpy.typing import NDArray

from mgm_dali.errors import UserError
from mgm_dali.pipelines.feed import ClipFeed
from mgm_dali.profiling.apart import Apart
from mgm_dali.profiling.reading import sample_as_asked

__all__ = ["NUM_REMEMBERED", "RememberingFeed", "TracedFeed", "first_samples"]

NUM_REMEMBERED = 8
"""Clips that a worker process hands over in turn: more than its part of the caches holds."""
MOST_TRIED = 4 * NUM_REMEMBERED
REMEMBERED_BYTES = 256 << 20
"""No more are remembered then: every worker process holds them."""

Sample = tuple[NDArray[Any], ...]


class RememberingFeed(ClipFeed):
    """Hands a few samples over again and again, and reads nothing."""

    def __init__(self, *arguments: Any, remembered: Sequence[Sample], **options: Any) -> None:
        super().__init__(*arguments, **options)
        self._remembered = remembered
        self._next = 0

    def sample(self, number: int) -> Sample:
        del number
        self._next += 1
        return self._remembered[self._next % len(self._remembered)]


def first_samples(there: Apart) -> list[Sample]:
    """A few samples that this rank's run begins with. Raises `UserError` if none can be read."""
    found: list[Sample] = []
    num_bytes = 0
    for place in range(MOST_TRIED):
        if len(found) == NUM_REMEMBERED or num_bytes > REMEMBERED_BYTES:
            break
        try:
            found.append(there(sample_as_asked, there.feed.number_of(place)))
        except UserError:  # it is counted where reading is measured
            if place == MOST_TRIED - 1 and not found:
                raise
            continue
        num_bytes += sum(array.nbytes for array in found[-1])
    return found


class TracedFeed(ClipFeed):
    """Writes down who read a sample from when to when.

    FOLDER/PID.txt has lines `begin end`, nanoseconds of the system's clock.
    """

    def __init__(self, *arguments: Any, folder: Path, **options: Any) -> None:
        super().__init__(*arguments, **options)
        self.folder = folder

    def sample(self, number: int) -> Sample:
        begun = time.time_ns()
        arrays = super().sample(number)
        with (self.folder / f"{os.getpid()}.txt").open("a") as file:
            file.write(f"{begun} {time.time_ns()}\n")
        return arrays
