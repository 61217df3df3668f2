"""Judging a network on `data.val` while it trains."""

from collections.abc import Callable
from contextlib import AbstractContextManager
from dataclasses import dataclass

import torch
from torch import Tensor

from mgm_dali.config import RunConfig
from mgm_dali.masking import NEEDS_MOTION, make_mask
from mgm_dali.masking.counts import hidden_per_slice
from mgm_dali.models import build_autoencoder
from mgm_dali.pipelines.loader import ClipLoader
from mgm_dali.pipelines.share import Share
from mgm_dali.training.world import World

__all__ = ["Judgement", "Watcher", "autocast", "reconstruction_loss"]


@dataclass(frozen=True)
class Watcher:
    """Who hears of a judgement that takes a while."""

    say: Callable[[str], None]
    """Takes a line for the log."""
    goes_on: Callable[[], None]
    """Called behind every batch."""


@dataclass(frozen=True)
class Judgement:
    """What a run is judged by."""

    measure: str
    """The number that says which step was best."""
    higher_is_better: bool
    judge: Callable[[RunConfig, World, dict[str, Tensor], Watcher], dict[str, float]]
    """The numbers, from float32 weights by name. All ranks call it."""


def autocast(config: RunConfig, device: torch.device) -> AbstractContextManager[None]:
    """The numbers in which float32 weights are judged: on a GPU those that they are trained in."""
    precision = config.training.precision
    low = precision != "fp32" and device.type == "cuda"
    dtype = torch.float16 if precision == "fp16" else torch.bfloat16
    return torch.autocast(device.type, dtype, enabled=low)


def reconstruction_loss(
    config: RunConfig, world: World, weights: dict[str, Tensor], watcher: Watcher
) -> dict[str, float]:
    """Mean loss on the clips of `data.val` of an autoencoder's weights.

    Clips and masks are the same every time, so that the numbers of several steps compare. A clip
    that cannot be read does not count; if none can, the loss is infinite.
    """
    network = build_autoencoder(config.model).to(world.device).eval()
    network.load_state_dict(weights)
    grid = network.grid
    num_hidden = grid.t * hidden_per_slice(config.mask.ratio, grid)
    share = Share(config.evaluation.batch_size, world.rank, world.size)
    total = torch.zeros(2, dtype=torch.float64, device=world.device)
    with ClipLoader(
        config, "evaluate", share, needs_motion=config.mask.strategy in NEEDS_MOTION
    ) as loader:
        for batch in loader:
            counted = batch.index >= 0
            counted[loader.replaced] = False
            motion = batch.motion, batch.motion_valid
            mask = make_mask(*motion, batch.seed, grid, config.mask, batch.motion_known)
            if clips := int(counted.sum()):
                with torch.inference_mode(), autocast(config, world.device):
                    loss = network(batch.video[counted], mask[counted], num_hidden)
                total += torch.tensor([float(loss) * clips, clips], device=world.device)
            watcher.goes_on()
    loss_sum, num_clips = world.sum(total).tolist()
    mean = loss_sum / num_clips if num_clips else float("inf")
    watcher.say(f"loss {mean:.4f} on {num_clips:.0f} clips of {config.data.val}")
    return {"val/loss": mean}
