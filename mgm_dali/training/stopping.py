"""Ending a run on request: all ranks behind the same step, with a checkpoint.

SIGTERM asks for it (preemption, the end of a cluster job's time), `training.max_minutes` does, and
so does the death of the launcher, which would leave its ranks behind as orphans.
"""

import math
import os
import select
import signal
import sys
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import NoReturn

import torch
from torch import Tensor

from mgm_dali.config import RunConfig
from mgm_dali.launcher import is_launched, launcher_is_gone
from mgm_dali.runs.status import mark_ended
from mgm_dali.training.world import World

__all__ = ["PREEMPTED", "StopRequest", "end_process", "stop_request"]

LISTEN_SECONDS = 0.5
LAST_WORDS_SECONDS = 5.0
PREEMPTED = 128 + signal.SIGTERM
"""Exit status of a run that was asked to go by SIGTERM, saved or not: 143, as shells have it."""


class StopRequest:
    """Whether any rank was asked to stop.

    The ranks tell one another once a step and hear of it one step later: by then the sum has long
    been there, and neither host nor device has waited for it.
    """

    def __init__(self, world: World, max_minutes: float | None) -> None:
        self.reason = ""
        """Why this rank, or another, was asked; empty until then."""
        self.preempted = False
        """Somebody wants the machine, and `grace_seconds` count."""
        self.is_saved = False
        """Nothing is left that could be lost."""
        self._world = world
        self._ends = time.monotonic() + 60 * max_minutes if max_minutes else math.inf
        self._told: tuple[Tensor, torch.cuda.Event | None] | None = None

    def preempt(self, reason: str) -> None:
        """Notes that this process has to go; the first reason stays."""
        self.reason = self.reason or reason
        self.preempted = True

    def agreed(self) -> bool:
        """True behind the same step on all ranks. All must call it, once a step."""
        if time.monotonic() >= self._ends:
            self.reason = self.reason or "training.max_minutes are over"
        if self._world.size == 1:
            return bool(self.reason)
        heard = self._hear()
        self._tell()
        if heard:
            self.reason = self.reason or "another rank was asked to stop"
            self.preempted = heard > self._world.size  # alike on all ranks, as the exit status is
        return heard > 0

    def _tell(self) -> None:
        """A sum over the ranks: 0 to go on; above the number of ranks if one is preempted."""
        wish = bool(self.reason) + self._world.size * self.preempted
        total = self._world.sum(torch.tensor(float(wish), device=self._world.device))
        if total.device.type != "cuda":
            self._told = total, None
            return
        on_host = torch.empty((), pin_memory=True).copy_(total, non_blocking=True)
        arrived = torch.cuda.Event()  # type: ignore[no-untyped-call]
        arrived.record()
        self._told = on_host, arrived

    def _hear(self) -> float:
        if self._told is None:
            return 0.0
        total, arrived = self._told
        if arrived is not None:
            arrived.synchronize()
        return float(total)


@contextmanager
def stop_request(world: World, config: RunConfig) -> Iterator[StopRequest]:
    """While the block runs, SIGTERM asks the run to stop, and so does a launcher that dies.

    The run then has `training.grace_seconds`, after which the process ends as it is; if everything
    is saved, it ends at once. Outside of a process's main thread, where Python allows no handlers,
    SIGTERM ends the process as ever.
    """
    request = StopRequest(world, config.training.max_minutes)
    over, (reading, writing) = threading.Event(), os.pipe2(os.O_NONBLOCK | os.O_CLOEXEC)
    listener = threading.Thread(
        target=_listen, args=(request, world.rank, config, reading, over), daemon=True
    )
    listener.start()
    in_main_thread = threading.current_thread() is threading.main_thread()
    before = signal.getsignal(signal.SIGTERM)
    if in_main_thread:
        # The handler waits until the main thread comes back from what it calls; the byte does not.
        signal.signal(signal.SIGTERM, lambda *_: request.preempt("SIGTERM"))
        pipe_before = signal.set_wakeup_fd(writing, warn_on_full_buffer=False)
    after = before
    try:
        yield request
    except BaseException:
        # The launcher ends all ranks once one has failed: not before this one has said why.
        after = signal.SIG_IGN if is_launched() else before
        raise
    finally:
        if in_main_thread:
            signal.set_wakeup_fd(pipe_before)
            signal.signal(signal.SIGTERM, after)
        over.set()
        listener.join()
        os.close(reading)
        os.close(writing)


def _listen(
    request: StopRequest, rank: int, config: RunConfig, reading: int, over: threading.Event
) -> None:
    """The life of the thread that hears of signals, and of the launcher's death."""
    grace, deadline = config.training.grace_seconds, math.inf
    while not over.is_set():
        ready, _, _ = select.select([reading], [], [], LISTEN_SECONDS)
        if ready and signal.SIGTERM in os.read(reading, 64):
            request.preempt("SIGTERM")
        if launcher_is_gone():
            request.preempt("the launcher is gone")
        if request.preempted and deadline == math.inf:
            deadline = time.monotonic() + (0 if request.is_saved else grace)
        if time.monotonic() >= deadline and not over.is_set():
            if request.is_saved:
                end_process(rank, None, f"ended by {request.reason}, all is saved", PREEMPTED)
            message = f"not saved within training.grace_seconds = {grace:g} after {request.reason}"
            end_process(rank, config.output_dir, message, PREEMPTED)


def end_process(rank: int, run: Path | None, message: str, status: int) -> NoReturn:
    """Ends this process from any of its threads, whatever the others are waiting for.

    The first rank leaves the message in the status.json of `run`, if that is given.
    """
    last_words = threading.Thread(target=_last_words, args=(rank, run, message), daemon=True)
    last_words.start()
    last_words.join(LAST_WORDS_SECONDS)  # a disk or a pipe may not answer
    os._exit(status)


def _last_words(rank: int, run: Path | None, message: str) -> None:
    text = f"[rank {rank}] error: {message}; the checkpoints are intact, the same command goes on"
    with suppress(OSError):
        sys.stderr.write(text + "\n")
        sys.stderr.flush()
    if rank == 0 and run is not None:
        mark_ended(run, message)
