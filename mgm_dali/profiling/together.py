"""The real thing for some passes: reading, augmenting and computing side by side, as in a run."""

import time
from collections.abc import Iterator
from dataclasses import dataclass

import torch

from mgm_dali.clips.batch import ClipBatch
from mgm_dali.pipelines.loader import ClipLoader
from mgm_dali.profiling.clocks import cpu_seconds, now
from mgm_dali.profiling.computing import take_pass
from mgm_dali.profiling.machine import cpu_seconds_of_all
from mgm_dali.profiling.memory import Memory, memory_of
from mgm_dali.training.engine import Engine
from mgm_dali.training.loop import Task

__all__ = ["Together", "plan_passes", "run_together"]

MOST_PASSES = 500


@dataclass(frozen=True)
class Together:
    """What passes of a run take."""

    passes: int
    clips: int
    """Of this rank."""
    seconds: float
    waited_seconds: float
    """For batches."""
    cpu_seconds: float
    """Of this rank and its worker processes."""
    others_cores: float
    """That all else on this machine, other ranks among it, took meanwhile."""
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


def plan_passes(
    pass_seconds: float, prefetch_batches: int, seconds: float, a_step: int
) -> tuple[int, int]:
    """How many passes warm up, and how many are counted, in about so many seconds; whole steps.

    Batches that are there before the first pass would make it look faster than it is: the warm-up
    uses them up where there is time for it.
    """
    passes = min(seconds / pass_seconds, MOST_PASSES)
    warm_up = min(2 * prefetch_batches + 2, max(passes / 3, 1))
    steps = round((passes - warm_up) / a_step)
    return round(warm_up), max(steps, 1 if a_step > 1 else 2) * a_step


def run_together(
    engine: Engine,
    task: Task,
    loader: ClipLoader,
    batches: Iterator[ClipBatch],
    passes: tuple[int, int],
) -> Together:
    """Takes passes as a run does; `passes`: those that warm up, and those that are counted.

    All ranks must call it, with the same passes.
    """
    warm_up, count = passes
    for _ in range(warm_up):
        take_pass(engine, task, next(batches))
    device = engine.world.device
    if device.type == "cuda":
        torch.cuda.empty_cache()
        torch.cuda.reset_peak_memory_stats(device)
    waited, clips, all_begun = 0.0, 0, cpu_seconds_of_all()
    cpu_begun, begun = cpu_seconds(), now(device)
    for _ in range(count):
        asked = time.perf_counter()
        batch = next(batches)
        waited += time.perf_counter() - asked
        take_pass(engine, task, batch)
        clips += len(batch)
    cpu = cpu_seconds() - cpu_begun
    seconds = now(device) - begun
    others = max(cpu_seconds_of_all() - all_begun - cpu, 0.0) / seconds
    memory = memory_of(device, loader.shared_bytes)
    return Together(count, clips, seconds, waited, cpu, others, loader.num_skipped, memory)
