"""Finetuning: all weights of a network, from pretrained ones or from nothing."""

from functools import partial
from pathlib import Path

import torch
from timm.optim import param_groups_layer_decay

from mgm_dali.config import RunConfig
from mgm_dali.models.flops import attention_shapes, forward_gflops
from mgm_dali.pipelines.placement import choose_device
from mgm_dali.runs.checkpoint_files import average_beside
from mgm_dali.training.averaging import averaged
from mgm_dali.training.computing import measured_clips, prepare, with_kernel, with_precision
from mgm_dali.training.loading import load_on_all_ranks
from mgm_dali.training.loop import Task, train
from mgm_dali.training.objective import Objective
from mgm_dali.training.objective_choice import objective_of
from mgm_dali.training.resuming import starting_weights
from mgm_dali.training.schedule import with_accumulation
from mgm_dali.training.supervision import supervised
from mgm_dali.training.world import World, join_world

__all__ = ["finetune", "prepared_finetuning"]


def finetune(config: RunConfig) -> Path:
    """Trains a classifier or a detector, then judges it if `data.val` is set.

    Returns the path of the final weights. Raises `Stopped` if the run was asked to end before,
    after it has saved.
    """
    world = join_world(choose_device(config))
    with supervised(world, config) as supervision:
        config, objective = objective_of(config, world, to_train=True)
        config, task = prepared_finetuning(config, objective, world)
        weights = train(config, task, world, supervision)
        if task.average is not None:
            weights = average_beside(weights)
        if config.data.val:
            judged = objective.build(config)  # the trained one may be rounded to bf16
            loaded = load_on_all_ranks(judged, weights, world)
            goes_on = partial(supervision.doing, "judging")
            objective.evaluate(config, judged, world, loaded, goes_on)
    return weights


def prepared_finetuning(
    config: RunConfig, objective: Objective, world: World
) -> tuple[RunConfig, Task]:
    """The config with all that it leaves open decided, and what is to be trained.

    All ranks must call it. Raises `UserError`, on all of them, for what cannot be done here.
    """
    config, precision = with_precision(with_accumulation(config, world.size), world)
    torch.manual_seed(config.seed)  # the same initial weights on every rank
    network = objective.build(config)
    tokens = network.grid.num_tokens
    shapes = attention_shapes(config.model, measured_clips(config, world.device), tokens)
    config, kernel = with_kernel(config, shapes, world, dropped_tokens=False)
    start = "random weights: model.init is not set"
    if config.model.init:
        start = starting_weights(config, network, world)
    average = averaged(network, config, world)
    unusual = prepare(network, config)
    parameters = sum(p.numel() for p in network.parameters())
    groups = param_groups_layer_decay(
        network,
        weight_decay=config.training.weight_decay,
        no_weight_decay_list=tuple(network.no_weight_decay()),
        layer_decay=config.training.layer_decay,
    )
    task = Task(
        stage="finetune",
        network=network,
        average=average,
        groups=groups,
        loss=objective.loss,
        needs_motion=False,
        description=[
            f"precision  {precision}",
            f"attention  {kernel}",
            f"weights    {start}",
            *unusual,
            *objective.description,
            f"network    {config.model.name}, {config.model.attention} attention, "
            f"{parameters / 1e6:.1f} M parameters, "
            f"{objective.outputs}, "
            f"{forward_gflops(config.model, tokens):.1f} GFLOPs a clip and forward pass",
        ],
        judgement=objective.judgement,
        manifest=objective.manifest,
        files=objective.files,
    )
    return config, task
