"""Feeds to time a pipeline with: one that only remembers, and one that writes down what it did."""

import os
import time
from pathlib import Path
from typing import Any

from numpy.typing import NDArray

from mgm_dali.pipelines.feed import ClipFeed

__all__ = ["NUM_REMEMBERED", "RememberingFeed", "TracedFeed"]

NUM_REMEMBERED = 8
"""Clips that a worker process hands over in turn: more than its part of the caches holds."""


class RememberingFeed(ClipFeed):
    """Reads a few clips and hands those over again and again: what is left is not reading."""

    _remembered: tuple[tuple[NDArray[Any], ...], ...] = ()
    _next = 0

    def remember(self) -> None:
        """Reads them now, for all workers that this feed will be sent to."""
        for place in range(NUM_REMEMBERED):
            self.sample(self.number_of(place))

    def sample(self, number: int) -> tuple[NDArray[Any], ...]:
        if len(self._remembered) < NUM_REMEMBERED:
            self._remembered += (super().sample(number),)
        self._next += 1
        return self._remembered[self._next % len(self._remembered)]


class TracedFeed(ClipFeed):
    """Writes down who read a sample from when to when.

    FOLDER/PID.txt has lines `begin end`, nanoseconds of the system's clock.
    """

    def __init__(self, *arguments: Any, folder: Path, **options: Any) -> None:
        super().__init__(*arguments, **options)
        self.folder = folder

    def sample(self, number: int) -> tuple[NDArray[Any], ...]:
        begun = time.time_ns()
        arrays = super().sample(number)
        with (self.folder / f"{os.getpid()}.txt").open("a") as file:
            file.write(f"{begun} {time.time_ns()}\n")
        return arrays
