"""Worker processes that may hang or crash: one bad file costs one process, never the run.

    caller   item 3 -> [process A] -> (3, result)
             item 4 -> [process B]    hangs: killed, (4, Failure); a new process takes item 5

Libraries written in C read other people's files here. What no exception can end, a kill can.
"""

import contextlib
import ctypes
import math
import multiprocessing
import os
import signal
import time
from collections.abc import Callable, Generator, Sequence
from dataclasses import dataclass
from multiprocessing.connection import Connection, wait
from pathlib import Path
from typing import Any, Generic, Literal, TypeVar

from mgm_dali.errors import UserError
from mgm_dali.video.opening import VideoError

__all__ = ["Failure", "Worker", "leave_with_parent", "reason_of", "run_in_workers", "with_news"]

SECONDS_TO_START = 300.0
"""What a process may take to load its modules, from slow storage too."""
LONGEST_WAIT_SECONDS = 3600.0
"""The system's own clock for waiting ends at 25 days."""

Item = TypeVar("Item")
Result = TypeVar("Result")


@dataclass(frozen=True)
class Failure:
    """An item that has no result, and why."""

    reason: str
    cause: Literal["raised", "died", "hung"] = "raised"
    """What the process did; if it is not the first, it is no more."""


def run_in_workers(
    function: Callable[[Item], Result],
    items: Sequence[Item],
    *,
    num_workers: int,
    seconds_allowed: Callable[[Item], float],
) -> Generator[tuple[int, Result | Failure], None, None]:
    """Calls `function` for every item in spawned processes; yields (place in `items`, outcome).

    Outcomes come as they are ready, so that none waits for a slow one before it. An item fails if
    the function raises, if its process dies, or after the seconds that it is allowed. Less than one
    worker counts as one. The processes end with the iteration (close it if you leave it early), or
    with this process.

    Raises `UserError` if a process ends before it has begun to work.
    """
    places = iter(range(len(items)))
    workers = [Worker(function) for _ in range(min(max(num_workers, 1), len(items)))]
    try:
        for worker in workers:
            place = next(places)
            worker.give(place, items[place], seconds_allowed(items[place]))
        busy = list(workers)
        while busy:
            for worker in with_news(busy):
                outcome = worker.outcome()
                if not outcome:
                    continue
                done = worker.place
                place = next(places, -1)
                if place < 0:
                    busy.remove(worker)
                else:  # first this, then the caller: both work at the same time
                    worker.give(place, items[place], seconds_allowed(items[place]))
                yield done, outcome[0]
    finally:
        for worker in workers:
            worker.stop()


def leave_with_parent() -> None:
    """Makes this worker process end when its parent does, however the parent ends.

    Also leaves Ctrl-C and SIGTERM to the parent: they reach all processes of a terminal, or of a
    cluster's job.
    """
    parent = multiprocessing.parent_process()
    assert parent is not None, "only a worker process has a parent to leave with"
    pr_set_pdeathsig = 1
    ctypes.CDLL(None).prctl(pr_set_pdeathsig, signal.SIGKILL)
    for number in (signal.SIGINT, signal.SIGTERM):
        signal.signal(number, signal.SIG_IGN)
    if os.getppid() != parent.pid:  # it died before the tie was made
        os._exit(1)


class Worker(Generic[Item, Result]):
    """One process, started anew whenever it was lost, and the item that it has in hand."""

    def __init__(self, function: Callable[[Item], Result]) -> None:
        self.function = function
        self.place = -1
        self.deadline = math.inf
        self.connection: Connection[Any, Any] | None = None
        self.process: multiprocessing.process.BaseProcess | None = None
        self._seconds = 0.0
        self._started = False

    def give(self, place: int, item: Item, seconds: float) -> None:
        """Hands an item over; its time runs from when the process is ready for it."""
        connection = self.connection or self._start()
        self.place, self._seconds = place, seconds
        self.deadline = time.monotonic() + (seconds if self._started else SECONDS_TO_START)
        with contextlib.suppress(BrokenPipeError):  # a dead process is noticed while waiting
            connection.send(item)

    def outcome(self) -> tuple[Result | Failure] | tuple[()]:
        """What became of the item in hand; () if the process has only become ready for it."""
        assert self.connection is not None
        if not self.connection.poll():
            seconds = self._seconds if self._started else SECONDS_TO_START
            self.stop()
            return (Failure(f"not done after {seconds:g} s; it was given up", "hung"),)
        try:
            message: tuple[Result | Failure] | tuple[()] = self.connection.recv()
        except (EOFError, ConnectionResetError):
            return (self._lost(),)
        if not message:
            self._started = True
            self.deadline = time.monotonic() + self._seconds
        return message

    def stop(self) -> int | None:
        """Kills the process, if there is one; gives its exit status."""
        if self.process is None or self.connection is None:
            return None
        self.process.kill()
        self.process.join()
        status = self.process.exitcode
        with contextlib.suppress(ValueError):  # somebody else has waited for it
            self.process.close()
        self.connection.close()
        self.process = self.connection = None
        self._started = False
        return status

    def _start(self) -> "Connection[Any, Any]":
        # Spawned, not forked: the caller may hold threads and locks of torch or DALI.
        context = multiprocessing.get_context("spawn")
        connection, theirs = context.Pipe()
        # It would start in the folder in which this process once did.
        arguments = (self.function, theirs, Path.cwd())
        process = context.Process(target=_work, args=arguments, daemon=True)
        # In its first second one of them would end it: the process inherits the mask.
        mask = signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGINT, signal.SIGTERM})
        try:
            process.start()
        finally:
            signal.pthread_sigmask(signal.SIG_SETMASK, mask)
        theirs.close()  # so that the death of the process closes the pipe
        self.connection, self.process = connection, process
        return connection

    def _lost(self) -> Failure:
        assert self.process is not None
        was_started = self._started
        self.process.join()  # what has closed its pipe ends by itself, with its own status
        status = self.stop()
        if not was_started and status is not None and status >= 0:
            raise UserError(
                f"a worker process ended with status {status} before it began to work; its own "
                'message is above. A script must start its work below `if __name__ == "__main__":`'
            )
        if status is not None and status < 0:
            killer = _signal_name(-status)
            return Failure(f"the process that read it was killed by {killer}", "died")
        ended = "is gone" if status is None else f"ended with status {status}"
        return Failure(f"the process that read it {ended}", "died")


def with_news(
    workers: Sequence[Worker[Item, Result]], bell: int | None = None
) -> list[Worker[Item, Result]]:
    """Waits for workers that have sent something, have died, or are overdue.

    Returns as soon as something can be read of `bell` too, a file descriptor.
    """
    deadline = min((worker.deadline for worker in workers), default=math.inf)
    patience = min(max(0.0, deadline - time.monotonic()), LONGEST_WAIT_SECONDS)
    connections = [worker.connection for worker in workers if worker.connection]
    heard = wait(connections if bell is None else [*connections, bell], patience)
    now = time.monotonic()
    return [worker for worker in workers if worker.connection in heard or worker.deadline <= now]


def _work(function: Callable[[Any], Any], connection: "Connection[Any, Any]", folder: Path) -> None:
    """The life of a process: says () when it is ready, then (outcome,) for every item."""
    leave_with_parent()
    os.chdir(folder)
    connection.send(())
    while True:
        try:
            item = connection.recv()
        except EOFError:
            return
        try:
            outcome = function(item)
        except Exception as error:  # any file may be bad in any way; the reason is reported
            outcome = Failure(reason_of(error))
        connection.send((outcome,))


def reason_of(error: Exception) -> str:
    """One line for people."""
    if isinstance(error, VideoError):
        return error.reason  # whoever reports it names the path beside it
    if isinstance(error, UserError):
        return str(error)
    return f"{type(error).__name__}: {error}"


def _signal_name(number: int) -> str:
    try:
        return signal.Signals(number).name
    except ValueError:
        return f"signal {number}"
