"""Classifying videos: one class for each, judged by top-1."""

from collections.abc import Callable

from timm.data.mixup import Mixup
from timm.loss import SoftTargetCrossEntropy
from torch import Tensor, nn

from mgm_dali.clips.batch import ClipBatch
from mgm_dali.config import RunConfig
from mgm_dali.models import build_classifier
from mgm_dali.training.classes import with_num_classes
from mgm_dali.training.engine import Network
from mgm_dali.training.judging import Judgement
from mgm_dali.training.multi_view import evaluate_network, judge_weights
from mgm_dali.training.objective import Objective

__all__ = ["classification"]


def classification(config: RunConfig) -> tuple[RunConfig, Objective]:
    """The config with its number of classes, and how a classifier is trained and judged."""
    config = with_num_classes(config)
    objective = Objective(
        build=lambda config: build_classifier(config.model),
        loss=_loss_function(config),
        judgement=Judgement("val/top1", True, judge_weights),
        evaluate=evaluate_network,
        outputs=f"{config.model.num_classes} classes",
    )
    return config, objective


def _loss_function(config: RunConfig) -> Callable[[Network, ClipBatch], Tensor]:
    """Cross-entropy, over mixed clips and soft labels if the config asks for them."""
    augment = config.augment
    smoothed = nn.CrossEntropyLoss(label_smoothing=augment.label_smoothing)

    def plain(network: Network, batch: ClipBatch) -> Tensor:
        result: Tensor = smoothed(network(batch.video).float(), batch.label)
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

    def mixed(network: Network, batch: ClipBatch) -> Tensor:
        shape = batch.video.shape  # timm mixes images: [B, C, T, H, W] as [B, C * T, H, W]
        video, target = mixup(batch.video.flatten(1, 2).clone(), batch.label)
        result: Tensor = soft(network(video.view(shape)).float(), target)
        return result

    return mixed
