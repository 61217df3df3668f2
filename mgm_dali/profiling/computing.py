"""What a training step takes on a batch that is there already: its parts, and the whole."""

import time
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager, nullcontext
from dataclasses import dataclass, fields
from typing import Any

import torch

from mgm_dali.clips.batch import ClipBatch
from mgm_dali.config import RunConfig
from mgm_dali.profiling.clocks import Spent, now, spent_by
from mgm_dali.profiling.step_time import NO_TIME, StepTime
from mgm_dali.training.computing import DTYPES, compiling
from mgm_dali.training.engine import Engine
from mgm_dali.training.loop import Task
from mgm_dali.training.world import World

__all__ = ["Computing", "Part", "first_clips", "measure_computing", "take_pass"]

MOST_PASSES = 50
ROUNDS = 5
"""In which parts and whole take turns: a machine is not as fast in one minute as in the next."""
AVERAGINGS = 3

Part = Callable[[str], AbstractContextManager[None]]
"""What stands around a named part of the work."""


@dataclass(frozen=True)
class Computing:
    """What forward passes, with all that belongs to them, take on one batch."""

    num_clips: int
    """In each."""
    parts: dict[str, StepTime]
    """`mask` (`loss` while finetuning: mixing, and what a loss needs behind the network),
    `forward`, `backward`, `optimiser`, with a wait for the device and for all ranks in front of
    each; the mean over the passes, of which not all end in an optimiser step."""
    whole: Spent
    """As many passes, one behind the other; the device is waited for behind each round alone."""
    passes_a_step: int
    """Here."""
    gradient_bytes: int
    """That the ranks average behind each step."""
    averaging: StepTime
    """Of one step: averaging as many numbers over the ranks as there are gradients, alone. In a
    step it is a part of `backward` or `optimiser`, and may be hidden behind others."""


def take_pass(engine: Engine, task: Task, batch: ClipBatch, part: Part | None = None) -> None:
    """What the training loop does with a batch; `part` stands around each part of it."""
    around = part or (lambda _: nullcontext())

    def network(*inputs: Any) -> Any:
        with around("forward"):
            return engine(*inputs)

    with compiling("training.compile"):
        with around("loss"):
            loss = task.loss(network, batch)
        with around("backward"):
            engine.backward(loss)
    with around("optimiser"):
        engine.step()


def first_clips(batch: ClipBatch, count: int) -> ClipBatch:
    """The first clips of a batch, in memory of their own."""
    taken: dict[str, Any] = {}
    for field in fields(batch):
        tensor = getattr(batch, field.name)
        taken[field.name] = None if tensor is None else tensor[:count].clone()
    return ClipBatch(**taken)


def measure_computing(
    engine: Engine, task: Task, batch: ClipBatch, config: RunConfig, seconds: float
) -> Computing:
    """Times passes that change nothing: the learning rate is 0. All ranks must call it.

    A whole step must have been taken: the first pass compiles, and takes memory.
    """
    world, a_step = engine.world, config.training.accumulate_steps
    trial = spent_by(lambda: take_pass(engine, task, batch), a_step, world.device)
    # All ranks must take as many.
    steps = round(min(max(seconds / 2 / trial.seconds, 1), MOST_PASSES / a_step))
    steps = max(world.of_first(steps), 1)
    rounds = min(steps, ROUNDS)
    count = steps // rounds * a_step
    watch, whole = _Watch(world), Spent(0, 0.0, 0.0)
    for _ in range(rounds):
        for _ in range(count):
            take_pass(engine, task, batch, watch.part)
        whole += spent_by(lambda: take_pass(engine, task, batch), count, world.device)
    parts = {name: time * (1 / whole.count) for name, time in watch.taken.items()}
    beside = parts.pop("loss") + parts["forward"] * -1
    name = "mask" if task.stage == "pretrain" else "loss"
    count, dtype = _num_gradients(engine), DTYPES[config.training.precision]
    num_bytes, averaging = count * dtype.itemsize, _averaging(world, count, dtype)
    return Computing(len(batch), {name: beside, **parts}, whole, a_step, num_bytes, averaging)


class _Watch:
    """Sums what parts take, by name."""

    def __init__(self, world: World) -> None:
        self.world, self.taken = world, dict[str, StepTime]()

    @contextmanager
    def part(self, name: str) -> Iterator[None]:
        if name != "forward":  # which is inside another part
            self.world.require(None)  # a rank that comes late is no cost of this part
        begun, cpu_begun = now(self.world.device), time.process_time()
        yield
        cpu = time.process_time() - cpu_begun  # to wait for a GPU takes a core, and does nothing
        taken = StepTime(now(self.world.device) - begun, cpu)
        self.taken[name] = self.taken.get(name, NO_TIME) + taken


def _num_gradients(engine: Engine) -> int:
    """Of the whole network: with ZeRO 3 a rank holds some of each parameter alone."""
    parameters = [p for p in engine.network.parameters() if p.requires_grad]
    return sum(getattr(p, "ds_numel", p.numel()) for p in parameters)


def _averaging(world: World, count: int, dtype: torch.dtype) -> StepTime:
    if world.size == 1:
        return NO_TIME
    gradients = torch.zeros(count, dtype=dtype, device=world.device)
    world.sum(gradients)
    return spent_by(lambda: world.sum(gradients), AVERAGINGS, world.device).each
