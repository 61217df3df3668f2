"""A moving average of the network's weights, kept beside them (timm's `ModelEmaV3`)."""

import torch
from timm.utils.model_ema import ModelEmaV3

from mgm_dali.config import RunConfig
from mgm_dali.errors import UserError
from mgm_dali.models import Autoencoder, Classifier
from mgm_dali.training.world import World

__all__ = ["averaged"]


def averaged(
    network: Autoencoder | Classifier, config: RunConfig, world: World
) -> ModelEmaV3 | None:
    """The average as it begins, a float32 copy; None if `training.ema_decay` is 0.

    It is fed the weights as the network computes with them: in bf16 or fp16 that is their rounding,
    whose errors cancel over the thousands of steps that are averaged. To be called before the
    network is compiled or given to DeepSpeed. Raises `UserError` where no rank has whole weights.
    """
    decay = config.training.ema_decay
    if not decay:
        return None
    if config.training.zero_stage == 3:
        raise UserError(
            "training.ema_decay: with training.zero_stage=3 no rank has whole weights to average; "
            "take stage 2, or ema_decay=0"
        )
    average = ModelEmaV3(
        network, decay=decay, device=world.device, dtype=torch.float32, exclude_buffers=True
    )
    average.foreach = True  # timm takes the slow way, as the network is moved only later
    return average
