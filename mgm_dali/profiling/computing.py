"""What a training step takes on a batch that is there already: its parts, and the whole."""

import time
from dataclasses import dataclass, fields
from typing import Any

import torch
from torch import Tensor

from mgm_dali.clips.batch import ClipBatch
from mgm_dali.profiling.clocks import Spent, now, spent_by
from mgm_dali.profiling.costs import StepTime, mean_time
from mgm_dali.training.computing import DTYPES, compiling
from mgm_dali.training.engine import Engine
from mgm_dali.training.loop import Task
from mgm_dali.training.world import World

__all__ = ["STEP_PARTS", "Computing", "first_clips", "measure_computing", "take_step"]

STEP_PARTS = ("mask", "forward", "backward", "optimiser")
MOST_STEPS = 50
AVERAGINGS = 3


@dataclass(frozen=True)
class Computing:
    """What steps on one batch take."""

    num_clips: int
    """In each."""
    parts: dict[str, StepTime]
    """Of `STEP_PARTS`: mean over the steps, with a wait for the device behind each part."""
    whole: Spent
    """Steps one behind the other; the device is waited for at the end alone."""
    gradient_bytes: int
    """That the ranks average behind each step."""
    communication_seconds: float
    """Of one step: averaging as many numbers over the ranks as the network has gradients, alone.
    In a step it is a part of `backward` or `optimiser`, and may be hidden behind others."""


def measure_computing(
    engine: Engine, task: Task, batch: ClipBatch, precision: str, seconds: float
) -> Computing:
    """Times steps that change nothing: the learning rate is 0. All ranks must call it.

    Some steps must have been taken: the first one compiles, and takes memory.
    """
    world = engine.world
    trial = spent_by(lambda: take_step(engine, task, batch), 1, world.device)
    # All ranks must take as many.
    count = world.of_first(round(min(max(seconds / 2 / trial.seconds, 1), MOST_STEPS)))
    timed = [_timed_step(engine, task, batch) for _ in range(count)]
    parts = {name: mean_time([one[name] for one in timed]) for name in STEP_PARTS}
    whole = spent_by(lambda: take_step(engine, task, batch), count, world.device)
    gradients = _gradients(engine, precision)
    return Computing(
        len(batch), parts, whole, gradients.nbytes, _communication_seconds(world, gradients)
    )


def take_step(engine: Engine, task: Task, batch: ClipBatch) -> None:
    """What the training loop does with a batch."""
    with compiling("training.compile"):
        loss = task.loss(engine, batch)
        engine.backward(loss)
    engine.step()


def first_clips(batch: ClipBatch, count: int) -> ClipBatch:
    """The first clips of a batch."""
    taken: dict[str, Any] = {}
    for field in fields(batch):
        tensor = getattr(batch, field.name)
        taken[field.name] = None if tensor is None else tensor[:count]
    return ClipBatch(**taken)


def _timed_step(engine: Engine, task: Task, batch: ClipBatch) -> dict[str, StepTime]:
    device = engine.world.device
    marks: list[StepTime] = []

    def mark() -> None:
        marks.append(StepTime(now(device), time.process_time()))

    def network(*inputs: Any) -> Any:
        mark()
        output = engine(*inputs)
        mark()
        return output

    mark()
    loss = task.loss(network, batch)
    mark()
    engine.backward(loss)
    mark()
    engine.step()
    mark()
    before, forward, behind, backward, optimiser = map(_between, marks, marks[1:])
    both = before.seconds + behind.seconds, before.cpu_seconds + behind.cpu_seconds
    mask = StepTime(*both)  # and what else a loss needs
    return dict(zip(STEP_PARTS, (mask, forward, backward, optimiser), strict=True))


def _between(begin: StepTime, end: StepTime) -> StepTime:
    return StepTime(end.seconds - begin.seconds, end.cpu_seconds - begin.cpu_seconds)


def _gradients(engine: Engine, precision: str) -> Tensor:
    """As many numbers as the network has gradients."""
    count = sum(p.numel() for p in engine.network.parameters() if p.requires_grad)
    return torch.zeros(count, dtype=DTYPES[precision], device=engine.world.device)


def _communication_seconds(world: World, gradients: Tensor) -> float:
    if world.size == 1:
        return 0.0
    world.sum(gradients)
    return spent_by(lambda: world.sum(gradients), AVERAGINGS, world.device).seconds / AVERAGINGS
