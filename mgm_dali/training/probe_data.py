"""What probes learn from and judge: rows of feature tables, in batches, and how rates fall.

Letters: G settings of a grid, n videos, V views of each, C classes.
"""

import math
from collections.abc import Callable, Iterator
from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from mgm_dali.config.probe import ProbeConfig
from mgm_dali.training.feature_store import FeatureTable

__all__ = [
    "Batch",
    "Classify",
    "Examples",
    "Fitting",
    "batch_size_for",
    "cosine_factor",
    "epoch_of_batches",
    "mean_of_views",
    "steps_per_epoch",
]

SMALLEST_BATCH = 32
STEPS_PER_EPOCH = 16
"""Of a set that is too small for as many batches of the configured size."""

Classify = Callable[[FeatureTable, NDArray[np.int64]], Tensor]
"""Probabilities `[G, n, C]` float64 of n videos of a table; it never sees a label."""


@dataclass(frozen=True, eq=False)
class Examples:
    """Labelled videos to learn from; of each a view was read."""

    table: FeatureTable
    rows: NDArray[np.int64]
    """`[n]`, of the table."""
    labels: NDArray[np.int64]
    """`[n]`."""

    def __len__(self) -> int:
        return len(self.rows)

    def part(self, chosen: NDArray[np.bool_]) -> "Examples":
        """Those that are chosen, `[n]`."""
        return Examples(self.table, self.rows[chosen], self.labels[chosen])


@dataclass(frozen=True)
class Fitting:
    """What all probes of a run have in common."""

    config: ProbeConfig
    num_classes: int
    seed: int
    device: torch.device
    goes_on: Callable[[], None]
    """Called behind every step."""


@dataclass(frozen=True)
class Batch:
    """One view of each of B videos."""

    features: Tensor
    """`[B, ...]` float32 on the device."""
    labels: Tensor
    """`[B]` int64 on the device."""


def batch_size_for(num_examples: int, largest: int) -> int:
    """The configured size, or a 16th of a small set, though not less than 32 videos if it can."""
    small = max(num_examples // STEPS_PER_EPOCH, SMALLEST_BATCH)
    return min(largest, small, num_examples)


def steps_per_epoch(num_examples: int, largest_batch: int) -> int:
    """Batches that an epoch is cut into; their sizes differ by one at the most."""
    return -(-num_examples // batch_size_for(num_examples, largest_batch))


def epoch_of_batches(
    examples: Examples, name: str, largest_batch: int, epoch: int, fitting: Fitting
) -> Iterator[Batch]:
    """Every example once, in an order and with a readable view each drawn from (seed, epoch)."""
    rng = np.random.default_rng(np.random.SeedSequence((fitting.seed, epoch)))
    order, draws = rng.permutation(len(examples)), rng.random(len(examples))
    for chosen in np.array_split(order, steps_per_epoch(len(examples), largest_batch)):
        rows = examples.rows[chosen]
        views = examples.table.draw_views(rows, draws[chosen])
        features = examples.table.take(name, rows, views)[:, 0]
        labels = torch.from_numpy(examples.labels[chosen])
        yield Batch(features.float().to(fitting.device), labels.to(fitting.device))


def cosine_factor(step: int, steps: int, warmup_steps: int) -> float:
    """Share of the peak rate at a step: linear from 0, then half a cosine down to 0 (MAE)."""
    if step < warmup_steps:
        return step / warmup_steps
    return 0.5 * (1 + math.cos(math.pi * (step - warmup_steps) / max(steps - warmup_steps, 1)))


def mean_of_views(values: Tensor, is_read: NDArray[np.bool_]) -> Tensor:
    """`[n, V, ...]` to `[n, ...]`: the mean over the views `[n, V]` that were read."""
    weights = torch.from_numpy(is_read).to(values.device, values.dtype)
    weights = weights / weights.sum(dim=1, keepdim=True)
    return (values * weights.view(*weights.shape, *[1] * (values.ndim - 2))).sum(dim=1)
