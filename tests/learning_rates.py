"""The learning rates of a whole run."""

from typing import Any

from mgm_dali.config import TrainingConfig
from mgm_dali.training.schedule import cosine_schedule, total_steps

__all__ = ["rates_of"]


def rates_of(
    training: TrainingConfig, num_videos: int = 1000, global_batch: int = 10, scale: float = 1.0
) -> list[float]:
    """Of every step, of parameters with that scale; `global_batch` counts videos."""
    group: dict[str, Any] = {"params": [], "lr_scale": scale}
    schedule = cosine_schedule([group], training, num_videos, global_batch)
    rates = []
    for step in range(total_steps(training, num_videos, global_batch)):
        schedule.step_update(step)
        rates.append(group["lr"])
    return rates
