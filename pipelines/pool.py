"""Worker processes that read ahead of the DALI graph, and hand over what they read in order.

    thread of this process                      workers                  DALI's external source
    place 0, 1, 2 ... -> whoever is idle        read into slot           takes D slots in order,
    a worker dies, hangs: another try,  <------ (slots.py)  -----------> frees them
    then its file is refused

DALI has worker processes of its own. They are not used, because when one dies at a bad moment
DALI waits for ever, when it dies at another the whole pipeline is lost, and because they hand over
in /dev/shm, which containers keep small.
"""

import contextlib
import logging
import os
import threading
import weakref
from collections import Counter
from collections.abc import Iterator
from typing import Any, NamedTuple

from numpy.typing import NDArray

from mgm_dali.errors import UserError
from mgm_dali.pipelines.feed import ClipFeed
from mgm_dali.pipelines.slots import Placed, SharedSlots, SlotWriter
from mgm_dali.video.workers import Failure, Worker, with_news

__all__ = ["Batch", "ClipPool", "read_here"]

logger = logging.getLogger(__name__)

Batch = list[list[NDArray[Any]]]
"""For each output of the feed, an array for each decoding."""

TRIES = 2
"""Processes that a file may end before it is refused: people and the kernel kill processes too, and
storage may be slow for a while."""
DEATHS_IN_VAIN = 8
"""Of each worker, without a single clip between them, until the run stops."""


def read_here(feed: ClipFeed) -> Iterator[Batch]:
    """The batches of a feed, read in this process when they are asked for."""
    count, place = feed.decodings_per_batch, 0
    while feed.num_places is None or place < feed.num_places:
        samples = [feed.sample(feed.number_of(place + i)) for i in range(count)]
        place += count
        yield [list(arrays) for arrays in zip(*samples, strict=True)]


class ClipPool:
    """The batches of a feed, an iterator; `close` it in the end, or leave that to the collector.

    A batch's arrays are valid until the next batch is asked for. Raises `UserError` if no worker
    process lives long enough to read anything.
    """

    def __init__(self, feed: ClipFeed) -> None:
        self._readers = _Readers(feed)
        # Not the pool but what works for it: a thread's own object is never collected.
        self._end = weakref.finalize(self, self._readers.stop)

    @property
    def restarts(self) -> int:
        """How often a worker process had to be started anew."""
        return self._readers.restarts

    @property
    def shared_bytes(self) -> int:
        """Memory in which clips are handed over, at this moment."""
        return self._readers.shared_bytes

    def __iter__(self) -> "ClipPool":
        return self

    def __next__(self) -> Batch:
        return self._readers.next_batch()

    def close(self) -> None:
        """Ends the worker processes."""
        self._end()


class _Task(NamedTuple):
    number: int
    """The sample's."""
    slot: int
    refused: dict[int, str]


class _WorkerSide:
    """What a worker process does with a task; pickled to it once."""

    def __init__(self, feed: ClipFeed, path: str) -> None:
        self.feed, self.path = feed, path
        self.writer: SlotWriter | None = None

    def __call__(self, task: _Task) -> list[Placed]:
        writer = self.writer = self.writer or SlotWriter(self.path)
        self.feed.refused = task.refused
        self.feed.reading = lambda row: writer.take(task.slot, row)
        return writer.write(task.slot, self.feed.sample(task.number))


class _Readers:
    """The workers and the thread that gives them tasks.

    A place is the number of a decoding since the pool began; place p is read into slot p modulo
    the number of slots.
    """

    def __init__(self, feed: ClipFeed) -> None:
        data = feed.config.data
        self.restarts = 0
        self._feed = feed
        self._count = feed.decodings_per_batch
        # The batch that DALI is copying, and those that are read ahead of it.
        self._num_slots = (1 + data.prefetch_batches) * self._count
        self._slots = SharedSlots(self._num_slots)
        work = _WorkerSide(feed, self._slots.path)
        self._workers = [Worker(work) for _ in range(data.num_workers)]
        self._again: list[int] = []
        """Places whose worker was lost."""
        self._next = 0
        """The first place that was not yet given to a worker."""
        self._deaths: Counter[int | None] = Counter()
        self._in_vain = 0
        self._news = threading.Condition()
        """Guards what follows, which both threads use."""
        self._done: dict[int, list[Placed]] = {}
        self._taken = 0
        """The first place that was not yet asked for."""
        self._free = 0
        """The first place whose arrays are still in use, or not there yet."""
        self._error: BaseException | None = None
        self._stopping = False
        self._bell = os.eventfd(0, os.EFD_NONBLOCK | os.EFD_CLOEXEC)
        self._thread = threading.Thread(target=self._run, name="clip readers", daemon=True)
        self._thread.start()

    def stop(self) -> None:
        """Ends thread and processes."""
        self._stopping = True
        os.eventfd_write(self._bell, 1)
        if threading.current_thread() is not self._thread:  # a collector runs anywhere
            self._thread.join()
            os.close(self._bell)

    @property
    def shared_bytes(self) -> int:
        return self._slots.held_bytes

    def next_batch(self) -> Batch:
        first, end = self._taken, self._taken + self._count
        if self._feed.num_places is not None and first >= self._feed.num_places:
            raise StopIteration
        with self._news:
            if self._error is not None:
                raise self._error
            for place in range(self._free, first):
                self._slots.release(place % self._num_slots)
            self._free = first
            os.eventfd_write(self._bell, 1)
            self._news.wait_for(
                lambda: self._error or all(place in self._done for place in range(first, end))
            )
            if self._error is not None:
                raise self._error
            placed = [self._done.pop(place) for place in range(first, end)]
            self._taken = end
        samples = [
            self._slots.arrays(place % self._num_slots, arrays)
            for place, arrays in zip(range(first, end), placed, strict=True)
        ]
        return [list(arrays) for arrays in zip(*samples, strict=True)]

    def _run(self) -> None:
        """The thread's life."""
        busy: list[Worker[_Task, list[Placed]]] = []
        try:
            while not self._stopping:
                for worker in self._workers:
                    if worker not in busy and (place := self._next_place()) is not None:
                        self._give(worker, place)
                        busy.append(worker)
                for worker in with_news(busy, self._bell):
                    outcome = worker.outcome()
                    if outcome:
                        busy.remove(worker)
                        self._take(worker.place, outcome[0])
                self._listen()
            self._fail(UserError("the worker processes were ended"))
        except OSError as error:
            self._fail(UserError(f"worker processes cannot be started or used: {error}"))
        except BaseException as error:  # whoever waits for a batch has to know
            self._fail(error)
        finally:
            for worker in self._workers:
                worker.stop()
            self._slots.close()

    def _fail(self, error: BaseException) -> None:
        with self._news:
            self._error = error
            self._news.notify_all()

    def _next_place(self) -> int | None:
        """What is to be read next, if there is room for it."""
        if self._again:
            return self._again.pop(0)
        with self._news:
            end = self._free + self._num_slots
        if self._feed.num_places is not None:
            end = min(end, self._feed.num_places)
        if self._next >= end:
            return None
        self._next += 1
        return self._next - 1

    def _give(self, worker: Worker[_Task, list[Placed]], place: int) -> None:
        slot = place % self._num_slots
        self._slots.clear_row(slot)
        task = _Task(self._feed.number_of(place), slot, self._feed.refused)
        worker.give(place, task, self._feed.config.data.clip_timeout_seconds)

    def _take(self, place: int, outcome: list[Placed] | Failure) -> None:
        if isinstance(outcome, Failure):
            self._account(place, outcome)
            self._again.append(place)
            return
        self._in_vain = 0
        self._deaths.pop(self._slots.row(place % self._num_slots), None)
        with self._news:
            self._done[place] = outcome
            self._news.notify_all()

    def _account(self, place: int, failure: Failure) -> None:
        """Decides whose fault it is that a worker was lost. Raises `UserError` to end the run."""
        if failure.cause == "raised":
            raise UserError(f"a worker process cannot hand over its clip: {failure.reason}")
        self.restarts += 1
        self._in_vain += 1
        row = self._slots.row(place % self._num_slots)
        name = "at its start: " if row is None else f"{self._feed.manifest[row].path}: "
        if row is not None:
            self._deaths[row] += 1
            if self._deaths[row] >= TRIES:
                self._feed.refused[row] = failure.reason
        if self._in_vain > DEATHS_IN_VAIN * len(self._workers):
            raise UserError(
                f"the worker processes are lost one after another; the last: {name}"
                f"{failure.reason}. If it was SIGKILL, there is too little memory: lower "
                "data.num_workers or training.batch_size. If it took too long, the storage does "
                "not answer, or data.clip_timeout_seconds is too short"
            )
        verdict = "it is given up" if row in self._feed.refused else "it is read again"
        logger.warning("%s%s; %s", name, failure.reason, verdict)

    def _listen(self) -> None:
        """Hears the bell, so that it can ring again."""
        with contextlib.suppress(BlockingIOError):
            os.eventfd_read(self._bell)
