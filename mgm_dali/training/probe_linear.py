"""The linear probe: one linear layer on standardised features, for a whole grid at once.

    mean feature [B, D] -> batch norm without gain and bias -> G linear layers, one product

Letters: B videos, D width, G settings, C classes.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from numpy.typing import NDArray
from timm.optim.lars import Lars
from torch import Tensor, nn
from torch.optim import SGD, Optimizer
from torch.optim.lr_scheduler import LambdaLR

from mgm_dali.config.probe import ProbeConfig
from mgm_dali.errors import UserError
from mgm_dali.training.feature_store import FeatureTable
from mgm_dali.training.probe_data import (
    Classify,
    Examples,
    Fitting,
    cosine_factor,
    epoch_of_batches,
    mean_of_views,
    steps_per_epoch,
)

__all__ = ["OPTIMISERS", "LinearSetting", "fit_linear", "linear_settings"]

MOMENTUM = 0.9
NORM_EPSILON = 1e-6
INITIAL_STD = 0.01


@dataclass(frozen=True)
class LinearSetting:
    """One point of the grid."""

    optimiser: str
    learning_rate: float
    weight_decay: float


def linear_settings(config: ProbeConfig) -> list[LinearSetting]:
    """Every learning rate of each optimiser with every weight decay."""
    rates = {"sgd": config.linear.sgd_rates, "lars": config.linear.lars_rates}
    return [
        LinearSetting(optimiser, rate, decay)
        for optimiser in OPTIMISERS
        for rate in rates[optimiser]
        for decay in config.linear.weight_decays
    ]


def fit_linear(settings: Sequence[LinearSetting], train: Examples, fitting: Fitting) -> Classify:
    """Trains a head for each setting on the same batches; they begin alike and never meet.

    As in MAE (He et al., CVPR 2022): `BatchNorm1d(affine=False, eps=1e-6)`, weights from a
    truncated normal of deviation 0.01, momentum 0.9, and a cosine behind a linear warm-up. Raises
    `UserError` where there is nothing to standardise by.
    """
    if len(train) < 2:
        raise UserError(
            f"data.train: {len(train)} video is left to learn from, and the linear probe "
            "standardises features over two or more; give more videos, or leave linear out of "
            "probe.kinds"
        )
    options = fitting.config.linear
    norm = nn.BatchNorm1d(train.table.spec.width, eps=NORM_EPSILON, affine=False)
    norm.to(fitting.device)
    weights, biases = _heads(len(settings), train.table.spec.width, fitting)
    steps = steps_per_epoch(len(train), options.batch_size)
    warmup = min(options.warmup_epochs, options.epochs // 2) * steps
    falling = partial(cosine_factor, steps=options.epochs * steps, warmup_steps=warmup)
    optimisers = [
        optimiser(
            [
                (s, w, b)
                for s, w, b in zip(settings, weights, biases, strict=True)
                if s.optimiser == name
            ]
        )
        for name, optimiser in OPTIMISERS.items()
        if any(s.optimiser == name for s in settings)
    ]
    schedules = [LambdaLR(optimiser, falling) for optimiser in optimisers]
    for epoch in range(options.epochs):
        for batch in epoch_of_batches(train, "mean", options.batch_size, epoch, fitting):
            logits = _logits(norm(batch.features), weights, biases)
            # Summed over heads, each of which has a mean of its own: none feels another's gradient.
            each = F.cross_entropy(
                logits.flatten(0, 1), batch.labels.repeat_interleave(len(settings)), reduction="sum"
            )
            for optimiser in optimisers:
                optimiser.zero_grad()
            (each / len(batch.labels)).backward()  # type: ignore[no-untyped-call]
            for optimiser, schedule in zip(optimisers, schedules, strict=True):
                optimiser.step()
                schedule.step()
            fitting.goes_on()
    norm.eval()
    return partial(_probabilities, norm, weights, biases)


def _heads(count: int, width: int, fitting: Fitting) -> tuple[list[Tensor], list[Tensor]]:
    """Weights `[C, D]` and biases `[C]` of all heads, the same in each."""
    generator = torch.Generator().manual_seed(fitting.seed)
    start = torch.empty(fitting.num_classes, width)
    nn.init.trunc_normal_(start, std=INITIAL_STD, generator=generator)
    weights = [start.to(fitting.device, copy=True).requires_grad_() for _ in range(count)]
    zeros = torch.zeros(fitting.num_classes, device=fitting.device)
    return weights, [zeros.clone().requires_grad_() for _ in range(count)]


def _logits(x: Tensor, weights: list[Tensor], biases: list[Tensor]) -> Tensor:
    """`[B, D]` to `[B, G, C]`."""
    logits = F.linear(x, torch.cat(weights), torch.cat(biases))
    return logits.view(len(x), len(weights), -1)


@torch.no_grad()
def _probabilities(
    norm: nn.Module,
    weights: list[Tensor],
    biases: list[Tensor],
    table: FeatureTable,
    rows: NDArray[np.int64],
) -> Tensor:
    features = table.take("mean", rows).to(weights[0].device)
    logits = _logits(norm(features.flatten(0, 1)), weights, biases)
    by_view = logits.double().softmax(dim=-1)
    by_view = by_view.view(len(rows), -1, *by_view.shape[1:])
    return mean_of_views(by_view, table.is_read[rows]).transpose(0, 1)


Heads = list[tuple[LinearSetting, Tensor, Tensor]]


def _sgd(heads: Heads) -> Optimizer:
    return SGD(_groups(heads, {}), momentum=MOMENTUM)


def _lars(heads: Heads) -> Optimizer:
    """Rates of matrices follow their norms, as in MAE also where nothing decays; not of biases."""
    optimiser: Optimizer = Lars(_groups(heads, {"always_adapt": True}), momentum=MOMENTUM)
    return optimiser


def _groups(heads: Heads, of_weights: dict[str, Any]) -> list[dict[str, Any]]:
    groups: list[dict[str, Any]] = []
    for setting, weight, bias in heads:
        rate = {"lr": setting.learning_rate}
        decay = {"weight_decay": setting.weight_decay}
        groups += [{"params": [weight], **rate, **decay, **of_weights}, {"params": [bias], **rate}]
    return groups


OPTIMISERS: dict[str, Callable[[Heads], Optimizer]] = {"sgd": _sgd, "lars": _lars}
"""What the heads of a grid are trained by; each setting has learning rate and decay of its own."""
