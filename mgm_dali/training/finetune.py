"""Finetuning: all weights of a classifier, from pretrained ones or from nothing."""

from collections.abc import Callable
from functools import partial
from pathlib import Path

import torch
from timm.data.mixup import Mixup
from timm.loss import SoftTargetCrossEntropy
from timm.optim import param_groups_layer_decay
from torch import Tensor, nn

from mgm_dali.clips.batch import ClipBatch
from mgm_dali.config import RunConfig
from mgm_dali.models import build_classifier
from mgm_dali.models.flops import attention_shapes, forward_gflops
from mgm_dali.pipelines.placement import choose_device
from mgm_dali.runs.checkpoint_files import average_beside
from mgm_dali.training.averaging import averaged
from mgm_dali.training.classes import with_num_classes
from mgm_dali.training.computing import measured_clips, prepare, with_kernel, with_precision
from mgm_dali.training.engine import Engine
from mgm_dali.training.evaluate import evaluate_network, judge_weights
from mgm_dali.training.judging import Judgement
from mgm_dali.training.loading import load_on_all_ranks
from mgm_dali.training.loop import Task, train
from mgm_dali.training.resuming import starting_weights
from mgm_dali.training.schedule import with_accumulation
from mgm_dali.training.supervision import supervised
from mgm_dali.training.world import World, join_world

__all__ = ["finetune"]


def finetune(config: RunConfig) -> Path:
    """Trains a classifier, then judges it if `data.val` is set; the path of the final weights.

    Raises `Stopped` if the run was asked to end before, after it has saved.
    """
    world = join_world(choose_device(config))
    with supervised(world, config) as supervision:
        config = with_accumulation(with_num_classes(config), world.size)
        config, task = _prepared(config, world)
        weights = train(config, task, world, supervision)
        if task.average is not None:
            weights = average_beside(weights)
        if config.data.val:
            judged = build_classifier(config.model)  # the trained one may be rounded to bf16
            loaded = load_on_all_ranks(judged, weights, world)
            goes_on = partial(supervision.doing, "judging")
            evaluate_network(config, judged, world, loaded, goes_on)
    return weights


def _prepared(config: RunConfig, world: World) -> tuple[RunConfig, Task]:
    """The config with all that it leaves open decided, and what is to be trained."""
    config, precision = with_precision(config, world)
    torch.manual_seed(config.seed)  # the same initial weights on every rank
    classifier = build_classifier(config.model)
    tokens = classifier.grid.num_tokens
    shapes = attention_shapes(config.model, measured_clips(config, world.device), tokens)
    config, kernel = with_kernel(config, shapes, world, dropped_tokens=False)
    start = "random weights: model.init is not set"
    if config.model.init:
        start = starting_weights(config, classifier, world)
    average = averaged(classifier, config, world)
    unusual = prepare(classifier, config)
    parameters = sum(p.numel() for p in classifier.parameters())
    groups = param_groups_layer_decay(
        classifier,
        weight_decay=config.training.weight_decay,
        no_weight_decay_list=tuple(classifier.no_weight_decay()),
        layer_decay=config.training.layer_decay,
    )
    task = Task(
        stage="finetune",
        network=classifier,
        average=average,
        groups=groups,
        loss=_loss_function(config),
        needs_motion=False,
        description=[
            f"precision  {precision}",
            f"attention  {kernel}",
            f"weights    {start}",
            *unusual,
            f"network    {config.model.name}, {config.model.attention} attention, "
            f"{parameters / 1e6:.1f} M parameters, "
            f"{config.model.num_classes} classes, "
            f"{forward_gflops(config.model, tokens):.1f} GFLOPs a clip and forward pass",
        ],
        judgement=Judgement("val/top1", True, judge_weights),
    )
    return config, task


def _loss_function(config: RunConfig) -> Callable[[Engine, ClipBatch], Tensor]:
    """Cross-entropy, over mixed clips and soft labels if the config asks for them."""
    augment = config.augment
    smoothed = nn.CrossEntropyLoss(label_smoothing=augment.label_smoothing)

    def plain(engine: Engine, batch: ClipBatch) -> Tensor:
        result: Tensor = smoothed(engine(batch.video).float(), batch.label)
        return result

    if not augment.mixup and not augment.cutmix:
        return plain
    mixup = Mixup(
        mixup_alpha=augment.mixup,
        cutmix_alpha=augment.cutmix,
        label_smoothing=augment.label_smoothing,
        num_classes=config.model.num_classes,
    )
    soft = SoftTargetCrossEntropy()

    def mixed(engine: Engine, batch: ClipBatch) -> Tensor:
        shape = batch.video.shape  # timm mixes images: [B, C, T, H, W] as [B, C * T, H, W]
        video, target = mixup(batch.video.flatten(1, 2).clone(), batch.label)
        result: Tensor = soft(engine(video.view(shape)).float(), target)
        return result

    return mixed
