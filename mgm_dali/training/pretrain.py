"""Pretraining: hide tokens, predict their pixels."""

from pathlib import Path

import torch
from timm.optim import param_groups_weight_decay
from torch import Tensor

from mgm_dali.clips.batch import ClipBatch
from mgm_dali.config import RunConfig
from mgm_dali.masking import (
    NEEDS_MOTION,
    decoded_count,
    decoded_tokens,
    hidden_per_slice,
    make_mask,
)
from mgm_dali.models import build_autoencoder, load_pretrained
from mgm_dali.models.flops import forward_gflops
from mgm_dali.pipelines.placement import choose_device
from mgm_dali.training.engine import Engine, join_world
from mgm_dali.training.loop import Task, train
from mgm_dali.training.precision import with_precision

__all__ = ["pretrain"]


def pretrain(config: RunConfig) -> Path:
    """Trains an autoencoder as the config says; returns the path of its final weights."""
    world = join_world(choose_device(config))
    config, precision = with_precision(config, world.device)
    torch.manual_seed(config.seed)  # the same initial weights on every rank
    autoencoder = build_autoencoder(config.model)
    description = [f"precision  {precision}"]
    if config.model.init:
        description.append(f"weights    {load_pretrained(autoencoder, config.model.init)}")
    grid = autoencoder.grid
    num_hidden = grid.t * hidden_per_slice(config.mask.ratio, grid)
    num_decoded = decoded_count(num_hidden, config.mask.decoded_share)
    mask_of = make_mask
    if config.mask.compile:
        mask_of = torch.compile(make_mask, fullgraph=True, dynamic=False)

    def loss(engine: Engine, batch: ClipBatch) -> Tensor:
        motion = batch.motion, batch.motion_valid
        mask = mask_of(*motion, batch.seed, grid, config.mask, batch.motion_known)
        decoded = None
        if num_decoded < num_hidden:
            decoded = decoded_tokens(mask, batch.seed, grid, num_decoded)
        result: Tensor = engine(batch.video, mask, num_hidden, decoded, num_decoded)
        return result

    visible = grid.num_tokens - num_hidden
    parameters = sum(p.numel() for p in autoencoder.parameters())
    description += [
        f"network    {config.model.name}, {parameters / 1e6:.1f} M parameters, "
        f"{forward_gflops(config.model, visible, num_decoded):.1f} GFLOPs a clip and forward pass",
        f"mask       {config.mask.strategy}, ratio {config.mask.ratio}: {num_hidden} of "
        f"{grid.num_tokens} tokens hidden, {num_decoded} of them predicted",
    ]
    groups = param_groups_weight_decay(
        autoencoder, config.training.weight_decay, no_weight_decay_list=("mask_token",)
    )
    task = Task(
        stage="pretrain",
        network=autoencoder,
        groups=groups,
        loss=loss,
        needs_motion=config.mask.strategy in NEEDS_MOTION,
        description=description,
    )
    return train(config, task, world)
