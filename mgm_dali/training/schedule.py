"""Learning rate and length of a run: pure functions of the step.

The batch is counted in videos: clips that are cut out of one decoding (`augment.repeats`) count
once, for the length and for the learning rate, as in VideoMAE.
"""

import math

import numpy as np
import torch
from timm.scheduler.cosine_lr import CosineLRScheduler

from mgm_dali.config import RunConfig, TrainingConfig
from mgm_dali.errors import UserError

__all__ = ["cosine_schedule", "is_due", "peak_lr", "seed_step", "total_steps", "with_accumulation"]


def with_accumulation(config: RunConfig, world_size: int) -> RunConfig:
    """The config with `training.accumulate_steps` as `training.global_batch` asks, if it does.

    Raises `UserError` if that many ranks cannot share it.
    """
    training = config.training
    if training.global_batch is None:
        return config
    at_once = training.batch_size * world_size
    steps, rest = divmod(training.global_batch, at_once)
    if rest or not steps:
        raise UserError(
            f"training.global_batch: {training.global_batch} clips cannot be shared by "
            f"{world_size} rank(s) with training.batch_size={training.batch_size}: it must be a "
            f"multiple of {at_once}; change batch_size or the number of ranks"
        )
    if training.accumulate_steps not in (1, steps):
        raise UserError(
            f"training.accumulate_steps: {training.accumulate_steps} contradicts {steps}, which "
            "follows from training.global_batch; remove it"
        )
    changed = training.model_copy(update={"accumulate_steps": steps})
    return config.model_copy(update={"training": changed})


def is_due(every_steps: int | None, step: int) -> bool:
    """Whether something that is done every so many steps, or never (None), is done behind this."""
    return every_steps is not None and step % every_steps == 0


def total_steps(config: TrainingConfig, num_videos: int, videos_a_step: int) -> int:
    """Optimiser steps of the whole run; the last batch may reach into the next epoch."""
    if config.max_steps is not None:
        return config.max_steps
    return math.ceil(config.epochs * num_videos / videos_a_step)


def peak_lr(base_lr: float, videos_a_step: int) -> float:
    """The linear scaling rule of VideoMAE and the paper: base_lr is meant for 256 videos a step."""
    return base_lr * videos_a_step / 256


def cosine_schedule(
    groups: list[dict[str, object]], config: TrainingConfig, num_videos: int, videos_a_step: int
) -> CosineLRScheduler:
    """Linear warm-up from 0, then a cosine to `min_lr`; `step_update(step)` writes the groups' lr.

    It keeps no state of its own: what it writes depends on the step alone, so a resumed run goes
    on exactly. A group's `lr_scale` multiplies the rate.
    """
    steps = total_steps(config, num_videos, videos_a_step)
    warmup = min(round(config.warmup_epochs * num_videos / videos_a_step), steps // 2)
    for group in groups:
        group["lr"] = peak_lr(config.base_lr, videos_a_step)
    return CosineLRScheduler(
        _Groups(groups),
        t_initial=steps - warmup,
        lr_min=peak_lr(config.min_lr, videos_a_step) if config.min_lr else 0.0,
        warmup_t=warmup,
        warmup_lr_init=0.0,
        warmup_prefix=True,
        t_in_epochs=False,
    )


class _Groups(torch.optim.Optimizer):
    """What timm's scheduler asks of an optimiser: the list of groups, DeepSpeed's in our case."""

    def __init__(self, groups: list[dict[str, object]]) -> None:
        self.param_groups = groups


def seed_step(seed: int, step: int, rank: int) -> None:
    """Seeds the network's own noise (stochastic depth, dropout, mixup) for one optimiser step.

    Nothing of a generator has to be kept in a checkpoint: the step names its noise.
    """
    first, second = np.random.SeedSequence((seed, step, rank)).generate_state(2)
    torch.manual_seed(int(first))
    np.random.seed(int(second))  # timm's Mixup draws from numpy's global generator
