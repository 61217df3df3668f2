"""Tries settings for real: some passes of a run with each combination of values."""

import gc
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from itertools import product

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
    try:
        together = _passes(config_of(overrides), stage, seconds, world)
    except UserError as error:  # of the configuration, and so the same on all ranks
        return Tried(overrides, None, 0.0, str(error))
    except torch.OutOfMemoryError as error:
        if world.size > 1:  # the others are waiting for this rank somewhere
            raise UserError(f"{' '.join(overrides)}: {error}") from error
        return Tried(overrides, None, 0.0, "the GPU's memory is too small for it")
    rate = torch.tensor(together.clips_per_second, device=world.device)
    return Tried(overrides, together, float(world.sum(rate)), None)


def _passes(config: RunConfig, stage: Stage, seconds: float, world: World) -> Together:
    config, task = prepared_task(config, stage, world)
    share = Share(config.training.batch_size, world.rank, world.size)
    ahead, a_step = config.data.prefetch_batches, config.training.accumulate_steps
    loader = ClipLoader(
        config, stage, share, needs_motion=task.needs_motion, manifest=task.manifest
    )
    with loader:
        drop_files(loader.feed)  # each choice meets them anew
        engine = Engine(task.network, task.groups, config, world, task.average)
        try:
            batches = loader.endless()
            for _ in range(2 * ahead + 2):  # the first compiles, and the queue fills meanwhile
                take_pass(engine, task, next(batches))
            begun = now(world.device)
            for _ in range(TRIAL_PASSES):
                take_pass(engine, task, next(batches))
            pass_seconds = (now(world.device) - begun) / TRIAL_PASSES
            _, count = plan_passes(pass_seconds, ahead, seconds, a_step)
            return run_together(engine, task, loader, batches, (0, world.of_first(count)))
        finally:
            engine.close()
