"""What a profile trains, and who watches over its ranks meanwhile."""

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import NamedTuple

from mgm_dali.config import RunConfig
from mgm_dali.pipelines.share import Stage
from mgm_dali.training.finetune import prepared_finetuning
from mgm_dali.training.heartbeat import watched
from mgm_dali.training.loop import Task
from mgm_dali.training.objective_choice import objective_of
from mgm_dali.training.pretrain import prepared_pretraining
from mgm_dali.training.schedule import with_accumulation
from mgm_dali.training.world import World

__all__ = ["StepAsked", "one_pass_a_step", "prepared_task", "step_asked", "watched_apart"]

LONGER = 20
"""Times the seconds given, until a rank that says nothing is held to hang."""
DEEPSPEED_BATCHES = ("gradient_accumulation_steps", "train_batch_size")


class StepAsked(NamedTuple):
    """A step as the run's configuration has it; while it is profiled it may have fewer passes."""

    passes: int
    """Forward passes of a rank."""
    global_batch: int | None
    """`training.global_batch`."""


def step_asked(config: RunConfig, world: World) -> StepAsked:
    """What this configuration asks of these ranks. Raises `UserError` if they cannot do it."""
    training = with_accumulation(config, world.size).training
    return StepAsked(training.accumulate_steps, training.global_batch)


def prepared_task(config: RunConfig, stage: Stage, world: World) -> tuple[RunConfig, Task]:
    """What a run of this stage trains. All ranks must call it."""
    if stage == "pretrain":
        return prepared_pretraining(config, world)
    config, objective = objective_of(config, world, to_train=True)
    return prepared_finetuning(config, objective, world)


def one_pass_a_step(config: RunConfig) -> RunConfig:
    """The same without accumulation, whoever asked for it."""
    training = config.training.model_copy(update={"accumulate_steps": 1, "global_batch": None})
    deepspeed = {k: v for k, v in config.deepspeed.items() if k not in DEEPSPEED_BATCHES}
    return config.model_copy(update={"training": training, "deepspeed": deepspeed})


@contextmanager
def watched_apart(
    world: World, config: RunConfig, folder: Path, seconds: float
) -> Iterator[Callable[[str], None]]:
    """As a run is watched, but what it writes about a rank that hangs goes into `folder`."""
    hang_seconds = max(config.training.hang_seconds, LONGER * seconds)
    training = config.training.model_copy(update={"hang_seconds": hang_seconds})
    apart = config.model_copy(update={"training": training, "output_dir": folder})
    with watched(world, apart) as doing:
        yield doing
