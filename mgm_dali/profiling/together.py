"""The real thing for some steps: reading, augmenting and computing side by side, as in a run."""

import time
from collections.abc import Iterator
from dataclasses import dataclass

import torch

from mgm_dali.clips.batch import ClipBatch
from mgm_dali.pipelines.loader import ClipLoader
from mgm_dali.profiling.clocks import cpu_seconds, cpu_seconds_of_all, now
from mgm_dali.profiling.computing import take_step
from mgm_dali.profiling.memory import Memory, memory_of
from mgm_dali.training.engine import Engine
from mgm_dali.training.loop import Task

__all__ = ["LEAST_STEPS", "Together", "plan_steps", "run_together"]

LEAST_STEPS, MOST_STEPS = 3, 500


@dataclass(frozen=True)
class Together:
    """What steps of a run take."""

    steps: int
    clips: int
    """Of this rank."""
    seconds: float
    waited_seconds: float
    """For batches."""
    cpu_seconds: float
    """Of this rank and its worker processes."""
    others_cores: float
    """That all other programs of the machine, other ranks among them, took meanwhile."""
    skipped: int
    memory: Memory

    @property
    def clips_per_second(self) -> float:
        """Of this rank."""
        return self.clips / self.seconds

    @property
    def data_wait_share(self) -> float:
        """Of the time."""
        return self.waited_seconds / self.seconds


def plan_steps(step_seconds: float, prefetch_batches: int, seconds: float) -> tuple[int, int]:
    """How many steps warm up, and how many are counted, in about so many seconds.

    Batches that are there before the first step would make it look faster than it is: the warm-up
    uses them up where there is time for it.
    """
    steps = round(min(max(seconds / step_seconds, LEAST_STEPS), MOST_STEPS))
    warm_up = min(2 * prefetch_batches + 2, max(steps // 3, 1))
    return warm_up, max(steps - warm_up, 2)


def run_together(
    engine: Engine,
    task: Task,
    loader: ClipLoader,
    batches: Iterator[ClipBatch],
    steps: tuple[int, int],
) -> Together:
    """Takes steps as a run does; `steps`: those that warm up, and those that are counted.

    All ranks must call it, with the same steps.
    """
    warm_up, count = steps
    for _ in range(warm_up):
        take_step(engine, task, next(batches))
    device = engine.world.device
    if device.type == "cuda":
        torch.cuda.reset_peak_memory_stats(device)
    waited, clips = 0.0, 0
    begun, cpu_begun, all_begun = now(device), cpu_seconds(), cpu_seconds_of_all()
    for _ in range(count):
        asked = time.perf_counter()
        batch = next(batches)
        waited += time.perf_counter() - asked
        take_step(engine, task, batch)
        clips += len(batch)
    seconds, cpu = now(device) - begun, cpu_seconds() - cpu_begun
    others = max(cpu_seconds_of_all() - all_begun - cpu, 0.0) / seconds
    memory = memory_of(device, loader.shared_bytes)
    return Together(count, clips, seconds, waited, cpu, others, loader.num_skipped, memory)
