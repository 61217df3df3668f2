"""Pretraining: hide tokens, predict their pixels."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from timm.optim import param_groups_weight_decay
from torch import Tensor

from mgm_dali.clips.batch import ClipBatch
from mgm_dali.config import RunConfig
from mgm_dali.masking import (
    NEEDS_MOTION,
    PatchGrid,
    decoded_count,
    decoded_tokens,
    hidden_per_slice,
    make_mask,
)
from mgm_dali.models import Autoencoder, build_autoencoder
from mgm_dali.models.flops import attention_shapes, forward_gflops
from mgm_dali.pipelines.placement import choose_device
from mgm_dali.training.averaging import averaged
from mgm_dali.training.computing import (
    compiling,
    measured_clips,
    prepare,
    with_kernel,
    with_precision,
)
from mgm_dali.training.engine import Network
from mgm_dali.training.judging import Judgement, reconstruction_loss
from mgm_dali.training.loop import Task, train
from mgm_dali.training.pictures import picture_of
from mgm_dali.training.resuming import starting_weights
from mgm_dali.training.schedule import with_accumulation
from mgm_dali.training.supervision import supervised
from mgm_dali.training.world import World, join_world

__all__ = ["prepared_pretraining", "pretrain"]


def pretrain(config: RunConfig) -> Path:
    """Trains an autoencoder as the config says; returns the path of its final weights.

    Raises `Stopped` if the run was asked to end before, after it has saved.
    """
    world = join_world(choose_device(config))
    with supervised(world, config) as supervision:
        config, task = prepared_pretraining(config, world)
        return train(config, task, world, supervision)


def prepared_pretraining(config: RunConfig, world: World) -> tuple[RunConfig, Task]:
    """The config with all that it leaves open decided, and what is to be trained.

    All ranks must call it. Raises `UserError`, on all of them, for what cannot be done here.
    """
    config, precision = with_precision(with_accumulation(config, world.size), world)
    torch.manual_seed(config.seed)  # the same initial weights on every rank
    autoencoder = build_autoencoder(config.model)
    grid = autoencoder.grid
    num_hidden = grid.t * hidden_per_slice(config.mask.ratio, grid)
    num_decoded = decoded_count(num_hidden, config.mask.decoded_share)
    visible = grid.num_tokens - num_hidden
    clips = measured_clips(config, world.device)
    shapes = attention_shapes(config.model, clips, visible, num_decoded)
    config, kernel = with_kernel(config, shapes, world, dropped_tokens=True)
    description = [f"precision  {precision}", f"attention  {kernel}"]
    if config.model.init:
        description.append(f"weights    {starting_weights(config, autoencoder, world)}")
    average = averaged(autoencoder, config, world)
    description += prepare(autoencoder, config)
    parameters = sum(p.numel() for p in autoencoder.parameters())
    description += [
        f"network    {config.model.name}, {config.model.attention} attention, "
        f"{config.model.decoder_depth} decoder blocks, {parameters / 1e6:.1f} M parameters, "
        f"{forward_gflops(config.model, visible, num_decoded):.1f} GFLOPs a clip and forward pass",
        f"mask       {config.mask.strategy}, ratio {config.mask.ratio}: {num_hidden} of "
        f"{grid.num_tokens} tokens hidden, {num_decoded} of them predicted",
    ]
    groups = param_groups_weight_decay(
        autoencoder,
        config.training.weight_decay,
        no_weight_decay_list=tuple(autoencoder.no_weight_decay()),
    )
    task = Task(
        stage="pretrain",
        network=autoencoder,
        average=average,
        groups=groups,
        loss=_loss_function(config, grid, (num_hidden, num_decoded), world.device),
        needs_motion=config.mask.strategy in NEEDS_MOTION,
        description=description,
        judgement=Judgement("val/loss", False, reconstruction_loss),
        picture=_picture_function(config, autoencoder),
    )
    return config, task


def _loss_function(
    config: RunConfig, grid: PatchGrid, counts: tuple[int, int], device: torch.device
) -> Callable[[Network, ClipBatch], Tensor]:
    """Masks a batch, and asks the network for its loss; `counts`: hidden and predicted tokens."""
    num_hidden, num_decoded = counts
    mask_of = _compiled(config, grid, device) if config.mask.compile else make_mask

    def loss(network: Network, batch: ClipBatch) -> Tensor:
        motion = batch.motion, batch.motion_valid
        mask = mask_of(*motion, batch.seed, grid, config.mask, batch.motion_known)
        decoded = None
        if num_decoded < num_hidden:
            decoded = decoded_tokens(mask, batch.seed, grid, num_decoded)
        result: Tensor = network(batch.video, mask, num_hidden, decoded, num_decoded)
        return result

    return loss


def _picture_function(config: RunConfig, autoencoder: Autoencoder) -> Callable[[ClipBatch], Any]:
    def picture(batch: ClipBatch) -> Any:
        motion = batch.motion[:1], batch.motion_valid[:1]
        known = batch.motion_known[:1]
        mask = make_mask(*motion, batch.seed[:1], autoencoder.grid, config.mask, known)
        return picture_of(autoencoder, batch, mask)

    return picture


def _compiled(config: RunConfig, grid: PatchGrid, device: torch.device) -> Callable[..., Tensor]:
    """`make_mask`, compiled and tried on a batch of this run's shape before anything begins.

    Raises `UserError` if this machine cannot.
    """
    compiled = torch.compile(make_mask, fullgraph=True, dynamic=False)
    clips, frames = config.training.batch_size, 2 * grid.t
    valid = torch.zeros(clips, frames, dtype=torch.bool, device=device)
    known = torch.zeros(clips, frames, 2 * grid.h, 2 * grid.w, dtype=torch.bool, device=device)
    motion = torch.zeros(*known.shape, 2, device=device)
    with compiling("mask.compile"):
        compiled(motion, valid, torch.arange(clips, device=device), grid, config.mask, known)
    return compiled
