"""Tries settings for real: some passes of a run with each combination of values."""

import gc
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from itertools import product
from typing import NamedTuple

import torch

from mgm_dali.config import RunConfig
from mgm_dali.errors import UserError
from mgm_dali.pipelines.loader import ClipLoader
from mgm_dali.pipelines.share import Share, Stage
from mgm_dali.profiling.clocks import now
from mgm_dali.profiling.computing import take_pass
from mgm_dali.profiling.reading import drop_files
from mgm_dali.profiling.tasks import prepared_task
from mgm_dali.profiling.together import Together, plan_passes, run_together
from mgm_dali.training.engine import Engine
from mgm_dali.training.loop import Task
from mgm_dali.training.world import World

__all__ = ["SHORT_NAMES", "Tried", "best_of", "combinations", "split_axes", "try_settings"]

SHORT_NAMES = {
    "workers": "data.num_workers",
    "prefetch": "data.prefetch_batches",
    "batch_size": "training.batch_size",
    "repeats": "augment.repeats",
    "compile": "training.compile",
    "precision": "training.precision",
    "kernel": "training.attention_kernel",
}
"""What keys may be called in a sweep."""
ALIKE = 0.98
"""Of the fastest: what is as good. Then the first of them is taken."""
TRIAL_PASSES = 2
NO_MEMORY = "the GPU's memory is too small for it"


@dataclass(frozen=True)
class Tried:
    """One combination."""

    overrides: tuple[str, ...]
    together: Together | None
    """Of this rank; None if it did not work."""
    clips_per_second: float
    """Of all ranks."""
    problem: str | None


def split_axes(overrides: Sequence[str]) -> tuple[list[str], dict[str, list[str]]]:
    """The plain overrides, and the values of those that name several: `workers=1,2,4`.

    Short names become whole ones. A value with a slash or a bracket is one value, a path or a list.
    Raises `UserError` if nothing has several values, or a key has twice.
    """
    plain: list[str] = []
    axes: dict[str, list[str]] = {}
    for override in overrides:
        short, _, value = override.partition("=")
        key = SHORT_NAMES.get(short, short)
        if "," not in value or set("/[{") & set(value):
            plain.append(f"{key}={value}")
        elif key in axes:
            raise UserError(f"--sweep: {key} has several values twice; name it once")
        else:
            axes[key] = [one.strip() for one in value.split(",")]
    if not axes:
        raise UserError(
            "--sweep: name what to try, as workers=1,2,4 batch_size=8,16; short names are "
            f"{', '.join(SHORT_NAMES)}, and any other key is taken as it is"
        )
    return plain, axes


def combinations(axes: Mapping[str, Sequence[str]]) -> list[tuple[str, ...]]:
    """All of them as overrides, the last key changing fastest."""
    return [
        tuple(f"{key}={value}" for key, value in zip(axes, values, strict=True))
        for values in product(*axes.values())
    ]


def try_settings(
    choices: Sequence[tuple[str, ...]],
    config_of: Callable[[tuple[str, ...]], RunConfig],
    stage: Stage,
    seconds: float,
    world: World,
) -> Iterator[Tried]:
    """Takes passes with each choice in turn, for `seconds` in all. All ranks must call it.

    A choice that cannot be is found as such, and the others go on; so is, where one rank is alone,
    one for which its GPU's memory is too small. Where several are, that ends the sweep.
    """
    for overrides in choices:
        yield _try(overrides, config_of, stage, seconds / len(choices), world)
        gc.collect()
        if world.device.type == "cuda":
            torch.cuda.empty_cache()


def best_of(found: Sequence[Tried]) -> Tried:
    """The fastest; of several that are as fast within a few percent, the first.

    Raises `UserError` if nothing worked.
    """
    fastest = max(found, key=lambda tried: tried.clips_per_second)
    if fastest.together is None:
        raise UserError(f"--sweep: nothing worked; {fastest.problem}")
    enough = ALIKE * fastest.clips_per_second
    return next(tried for tried in found if tried.clips_per_second >= enough)


def _try(
    overrides: tuple[str, ...],
    config_of: Callable[[tuple[str, ...]], RunConfig],
    stage: Stage,
    seconds: float,
    world: World,
) -> Tried:
    with ExitStack() as stack:
        trial, problem = None, None
        try:
            trial = _set_up(config_of(overrides), stage, world, stack)
        except (UserError, torch.OutOfMemoryError) as error:
            problem = _reason(error)
        try:
            world.require(problem)
        except UserError as error:  # on all ranks
            return Tried(overrides, None, 0.0, str(error))
        assert trial is not None
        try:
            together = _passes(trial, seconds, world)
        except (UserError, torch.OutOfMemoryError) as error:
            if world.size > 1:  # the others are waiting for this rank somewhere
                raise UserError(f"{' '.join(overrides)}: {_reason(error)}") from error
            return Tried(overrides, None, 0.0, _reason(error))
    rate = torch.tensor(together.clips_per_second, device=world.device)
    return Tried(overrides, together, float(world.sum(rate)), None)


class _Trial(NamedTuple):
    config: RunConfig
    task: Task
    loader: ClipLoader
    engine: Engine


def _set_up(config: RunConfig, stage: Stage, world: World, stack: ExitStack) -> _Trial:
    config, task = prepared_task(config, stage, world)
    share = Share(config.training.batch_size, world.rank, world.size)
    loader = stack.enter_context(
        ClipLoader(config, stage, share, needs_motion=task.needs_motion, manifest=task.manifest)
    )
    engine = Engine(task.network, task.groups, config, world, task.average)
    stack.callback(engine.close)
    return _Trial(config, task, loader, engine)


def _passes(trial: _Trial, seconds: float, world: World) -> Together:
    config, task, loader, engine = trial
    ahead, a_step = config.data.prefetch_batches, config.training.accumulate_steps
    drop_files(loader.feed)  # each choice meets them anew
    batches, end = loader.endless(), time.perf_counter() + seconds
    for _ in range(2 * ahead + 2):  # the first compiles, and the queue fills meanwhile
        take_pass(engine, task, next(batches))
        if not world.of_first(time.perf_counter() < end):
            break
    begun = now(world.device)
    for _ in range(TRIAL_PASSES):
        take_pass(engine, task, next(batches))
    pass_seconds = (now(world.device) - begun) / TRIAL_PASSES
    _, count = plan_passes(pass_seconds, ahead, seconds, a_step)
    return run_together(engine, task, loader, batches, (0, world.of_first(count)))


def _reason(error: Exception) -> str:
    """One line for people."""
    return str(error) if isinstance(error, UserError) else NO_MEMORY
