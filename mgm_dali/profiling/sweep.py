"""Tries settings for real: some steps of a run with each combination of values."""

import gc
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from itertools import product

import torch

from mgm_dali.config import RunConfig
from mgm_dali.errors import UserError
from mgm_dali.pipelines.loader import ClipLoader
from mgm_dali.pipelines.placement import choose_device
from mgm_dali.pipelines.share import Share, Stage
from mgm_dali.profiling.clocks import now
from mgm_dali.profiling.computing import take_step
from mgm_dali.profiling.profile import prepared_task
from mgm_dali.profiling.together import Together, plan_steps, run_together
from mgm_dali.training.engine import Engine
from mgm_dali.training.heartbeat import watched
from mgm_dali.training.world import World, join_world

__all__ = ["SHORT_NAMES", "Tried", "best_of", "combinations", "split_axes", "sweep"]

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
TRIAL_STEPS = 2


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

    Raises `UserError` if there are none of the latter.
    """
    plain, axes = [], {}
    for override in overrides:
        key, _, value = override.partition("=")
        if "," in value and value[0] not in "[{":
            axes[SHORT_NAMES.get(key, key)] = [one.strip() for one in value.split(",")]
        else:
            plain.append(override)
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


def sweep(
    choices: Mapping[tuple[str, ...], RunConfig],
    stage: Stage,
    seconds: float,
    said: Callable[[Tried], None],
) -> list[Tried]:
    """Takes steps with each choice, for `seconds` in all; `said` is told of each, on rank 0.

    All ranks must call it. A choice that cannot be is found as such, and the others go on.
    """
    found: list[Tried] = []
    first = next(iter(choices.values()))
    world = join_world(choose_device(first))
    with watched(world, first) as doing:
        for overrides, config in choices.items():
            doing(f"trying {' '.join(overrides)}")
            tried = _try(overrides, config, stage, seconds / len(choices), world)
            _clear(world.device)
            found.append(tried)
            if world.is_first:
                said(tried)
    return found


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
    overrides: tuple[str, ...], config: RunConfig, stage: Stage, seconds: float, world: World
) -> Tried:
    try:
        together = _steps(config, stage, seconds, world)
    except UserError as error:
        return Tried(overrides, None, 0.0, str(error))
    except torch.OutOfMemoryError:
        return Tried(overrides, None, 0.0, "the GPU's memory is too small for it")
    rate = torch.tensor(together.clips_per_second, device=world.device)
    return Tried(overrides, together, float(world.sum(rate)), None)


def _steps(config: RunConfig, stage: Stage, seconds: float, world: World) -> Together:
    config, task = prepared_task(config, stage, world)
    share = Share(config.training.batch_size, world.rank, world.size)
    loader = ClipLoader(
        config, stage, share, needs_motion=task.needs_motion, manifest=task.manifest
    )
    with loader:
        engine = Engine(task.network, task.groups, config, world, task.average)
        batches = loader.endless()
        take_step(engine, task, next(batches))  # compiles, and waits for the first clips
        begun = now(world.device)
        for _ in range(TRIAL_STEPS):
            take_step(engine, task, next(batches))
        step_seconds = (now(world.device) - begun) / TRIAL_STEPS
        planned = plan_steps(step_seconds, config.data.prefetch_batches, seconds)
        steps = world.of_first(planned[0]), world.of_first(planned[1])
        return run_together(engine, task, loader, batches, steps)


def _clear(device: torch.device) -> None:
    """Frees what the choice before has held."""
    gc.collect()
    if device.type == "cuda":
        torch.cuda.empty_cache()
