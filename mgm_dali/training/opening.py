"""The first lines of a run's log: what runs where, and why."""

import torch

from mgm_dali import __version__
from mgm_dali.config import RunConfig
from mgm_dali.pipelines.loader import ClipLoader
from mgm_dali.training.schedule import peak_lr
from mgm_dali.training.world import World

__all__ = ["opening_lines"]


def opening_lines(
    config: RunConfig, description: list[str], loader: ClipLoader, world: World, steps: int
) -> list[str]:
    """`description`: what the task says of weights, network and mask; `steps`: the run's length."""
    training, place, manifest = config.training, loader.placement, loader.manifest
    rows = "videos" if manifest.keyframes is None else "moments in videos"
    epoch, repeats = loader.clips_per_epoch, config.augment.repeats
    batch = training.batch_size * training.accumulate_steps * world.size
    of_videos = f", {repeats} of each of {batch // repeats} videos" if repeats > 1 else ""
    device = torch.cuda.get_device_name(place.device) if place.device.type == "cuda" else "CPU"
    return [
        f"mgm-dali {__version__}  {loader.stage}  ->  {config.output_dir}",
        f"device     {device}; {world.size} rank(s), ZeRO stage {training.zero_stage}",
        f"data       {len(manifest)} {rows} of {manifest.path}; {place.reason}; "
        f"{config.data.num_workers} worker process(es) a rank",
        *description,
        f"batch      {batch} clips a step = {training.batch_size} x {training.accumulate_steps} "
        f"accumulated x {world.size} rank(s){of_videos}",
        f"rate       peak {peak_lr(training.base_lr, batch // repeats):.2e} = training.base_lr "
        f"{training.base_lr:g} x {batch // repeats} / 256 videos a step",
        f"length     {steps} steps = {steps * batch / epoch:.1f} epochs of {epoch} clips",
    ]
