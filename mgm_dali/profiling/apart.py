"""A process for a profile to read in, as a run has them: no file can end the profile or halt it."""

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import partial
from typing import Any, Concatenate, NamedTuple, ParamSpec, TypeVar, cast

from mgm_dali.errors import UserError
from mgm_dali.pipelines.feed import ClipFeed
from mgm_dali.video.workers import Failure, Worker, with_news

__all__ = ["Apart", "reading_apart"]

READINGS = 5
"""Times that a function reads a clip, at most."""

P = ParamSpec("P")
Result = TypeVar("Result")


class _Call(NamedTuple):
    function: Callable[..., Any]
    """Of a feed, and of what follows."""
    arguments: tuple[Any, ...]
    options: dict[str, Any]


class Apart:
    """Calls functions of a feed in another process; where that is lost, a new one is started."""

    def __init__(self, feed: ClipFeed) -> None:
        self.feed = feed
        self._worker: Worker[_Call, Any] = Worker(partial(_called, feed))

    def __call__(
        self,
        function: Callable[Concatenate[ClipFeed, P], Result],
        *arguments: P.args,
        **options: P.kwargs,
    ) -> Result:
        """What the function returns for the feed. Function, arguments and result are pickled.

        Raises `UserError` with the reason if it raises, if its process dies, or if it takes longer
        than a run allows so many clips.
        """
        seconds = READINGS * self.feed.config.data.clip_timeout_seconds
        self._worker.give(0, _Call(function, arguments, options), seconds)
        outcome: tuple[Any] | tuple[()] = ()
        while not outcome:  # it first says that it is ready
            with_news([self._worker])
            outcome = self._worker.outcome()
        if isinstance(outcome[0], Failure):
            raise UserError(outcome[0].reason)
        return cast(Result, outcome[0])

    def close(self) -> None:
        """Ends the process."""
        self._worker.stop()


@contextmanager
def reading_apart(feed: ClipFeed) -> Iterator[Apart]:
    """A process that is ready, and ends with the block."""
    there = Apart(feed)
    try:
        there(ClipFeed.number_of, 0)
        yield there
    finally:
        there.close()


def _called(feed: ClipFeed, call: _Call) -> Any:
    return call.function(feed, *call.arguments, **call.options)
