"""Ending a run on request: all ranks behind the same step, with a checkpoint.

SIGTERM asks for it (preemption, the end of a cluster job's time), `training.max_minutes` does, and
so does the death of the launcher, which would leave its ranks behind as orphans.
"""

import math
import os
import signal
import sys
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from types import FrameType
from typing import NoReturn

import torch
from torch import Tensor

from mgm_dali.config import RunConfig
from mgm_dali.runs.status import mark_ended
from mgm_dali.training.world import World

__all__ = ["PREEMPTED", "StopRequest", "end_process", "stop_request"]

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
        """It was not for `max_minutes`: somebody wants the machine."""
        self._world = world
        self._ends = time.monotonic() + 60 * max_minutes if max_minutes else math.inf
        self._launcher = os.getppid()
        self._told: tuple[Tensor, torch.cuda.Event | None] | None = None

    def ask(self, reason: str, *, preempted: bool) -> None:
        """Notes that this process was asked; the first reason stays."""
        if not self.reason:
            self.reason, self.preempted = reason, preempted

    def agreed(self) -> bool:
        """True behind the same step on all ranks. All must call it, once a step."""
        if time.monotonic() >= self._ends:
            self.ask("training.max_minutes are over", preempted=False)
        if self._world.size == 1:
            return bool(self.reason)
        if os.getppid() != self._launcher:
            self.ask("the launcher is gone", preempted=True)
        heard = self._hear()
        self._tell()
        if heard:
            self.ask("another rank was asked to stop", preempted=heard > self._world.size)
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
    """For as long as the block runs, SIGTERM asks the run to stop.

    It then has `training.grace_seconds`, after which the process ends as it is. Outside of a
    process's main thread, where Python allows no handlers, SIGTERM ends the process as ever.
    """
    request = StopRequest(world, config.training.max_minutes)
    grace = config.training.grace_seconds
    timer = threading.Timer(grace, _give_up, (world.rank, config.output_dir, grace))
    timer.daemon = True

    def on_sigterm(_number: int, _frame: FrameType | None) -> None:
        if not request.reason:
            timer.start()
        request.ask("SIGTERM", preempted=True)

    in_main_thread = threading.current_thread() is threading.main_thread()
    before = signal.signal(signal.SIGTERM, on_sigterm) if in_main_thread else None
    try:
        yield request
    finally:
        timer.cancel()
        if in_main_thread:
            signal.signal(signal.SIGTERM, before)


def _give_up(rank: int, run: Path, grace_seconds: float) -> None:
    message = f"not saved within training.grace_seconds = {grace_seconds:g} after SIGTERM"
    end_process(rank, run, message, PREEMPTED)


def end_process(rank: int, run: Path, message: str, status: int) -> NoReturn:
    """Ends this process from any of its threads, whatever the others are waiting for.

    The first rank leaves the message in the run's status.json.
    """
    if rank == 0:
        mark_ended(run, message)
    text = f"[rank {rank}] error: {message}; the checkpoints are intact, the same command goes on"
    sys.stderr.write(text + "\n")
    sys.stderr.flush()
    os._exit(status)
