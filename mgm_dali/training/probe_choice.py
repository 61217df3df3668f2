"""How the settings of a probe are chosen: on a part of the training videos that it has not seen.

Nothing here is given a judged video or its label.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, Generic, TypeVar

import numpy as np
import torch
from numpy.typing import NDArray

from mgm_dali.config.probe import ProbeConfig
from mgm_dali.errors import UserError
from mgm_dali.training.feature_store import FeatureTable
from mgm_dali.training.probe_data import Classify, Examples, Fitting

__all__ = ["Choice", "Probe", "choose", "classified", "held_out"]

NUMBERS_AT_ONCE = 2**25
"""Features and probabilities of judged videos that are in memory at once: 256 MB in float64."""
MOST_AT_ONCE = 1024

Setting = TypeVar("Setting")


@dataclass(frozen=True)
class Probe(Generic[Setting]):
    """One kind of probe."""

    settings: Callable[[ProbeConfig], list[Setting]]
    """The grid."""
    fit: Callable[[Sequence[Setting], Examples, Fitting], Classify]
    """Learns all of it side by side."""


@dataclass(frozen=True)
class Choice:
    """What the held-out videos said of a grid."""

    settings: list[Any]
    held_out_top1: list[float]
    """Of each setting."""
    best: int
    """The first of those with the highest accuracy."""
    num_held_out: int


def held_out(labels: NDArray[np.int64], share: float, seed: int) -> NDArray[np.bool_]:
    """Which of `[n]` labelled videos are kept back: the share of each class, drawn by the seed.

    Of a class with two videos or more at least one is kept back and one is not; a class of one
    video keeps it to learn from. Raises `UserError` if nothing can be kept back.
    """
    rng = np.random.default_rng(seed)
    kept_back = np.zeros(len(labels), np.bool_)
    for label in np.unique(labels):
        rows = rng.permutation(np.flatnonzero(labels == label))
        count = min(max(round(share * len(rows)), 1), len(rows) - 1)
        kept_back[rows[:count]] = True
    if not kept_back.any():
        raise UserError(
            f"data.train: none of the {len(np.unique(labels))} classes has two videos that can be "
            "read, so that none can be kept back to choose settings on; give more videos"
        )
    return kept_back


def choose(probe: Probe[Any], train: Examples, fitting: Fitting) -> Choice:
    """Compares the settings of a probe's grid on the held-out part of the training videos.

    One that diverged is never the best. Raises `UserError` if all did.
    """
    settings = probe.settings(fitting.config)
    apart = held_out(train.labels, fitting.config.held_out_share, fitting.seed)
    unseen = train.part(apart)
    classify = probe.fit(settings, train.part(~apart), fitting)
    right = np.zeros(len(settings), np.int64)
    is_sound = np.ones(len(settings), np.bool_)
    for part in _parts(unseen.table, len(unseen), len(settings) * fitting.num_classes):
        probabilities = classify(unseen.table, unseen.rows[part]).cpu()
        predicted = probabilities.argmax(dim=2).numpy()
        right += (predicted == unseen.labels[part]).sum(axis=1)
        is_sound &= torch.isfinite(probabilities).flatten(1).all(dim=1).numpy()
        fitting.goes_on()
    if not is_sound.any():
        raise UserError(
            f"probe: none of the {len(settings)} settings, such as {settings[0]}, gives numbers; "
            "take smaller learning rates"
        )
    top1 = [
        n / len(unseen) if sound else 0.0 for n, sound in zip(right.tolist(), is_sound, strict=True)
    ]
    best = int(np.where(is_sound, right, -1).argmax())
    return Choice(settings, top1, best, len(unseen))


def classified(
    classify: Classify, table: FeatureTable, num_classes: int, goes_on: Callable[[], None]
) -> NDArray[np.float64]:
    """Probabilities `[N, C]` of all videos of a table by one setting; NaN of unreadable ones.

    Raises `UserError` if it diverged.
    """
    probabilities = np.full((len(table), num_classes), np.nan)
    rows = table.readable_rows
    for part in _parts(table, len(rows), num_classes):
        probabilities[rows[part]] = classify(table, rows[part])[0].cpu().numpy()
        goes_on()
    if not np.isfinite(probabilities[rows]).all():
        raise UserError(
            "probe: the setting that was best on the held-out videos gives no numbers when it is "
            "trained on all; take smaller learning rates"
        )
    return probabilities


def _parts(table: FeatureTable, count: int, outputs_per_view: int) -> list[slice]:
    """So many videos in parts that fit in memory."""
    spec = table.spec
    numbers = spec.num_views * ((1 + 4 * spec.num_tokens) * spec.width + outputs_per_view)
    at_once = min(max(NUMBERS_AT_ONCE // numbers, 1), MOST_AT_ONCE)
    return [slice(first, first + at_once) for first in range(0, count, at_once)]
