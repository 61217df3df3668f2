"""The nearest-neighbour probe: the training videos most like a video vote, and nothing is learned.

As in DINO (Caron et al., ICCV 2021): by cosine, a vote is exp(cosine / temperature). A video is the
mean of its views' features. Where several are equally near, those earlier in the manifest vote;
where classes have equal votes, the lower class wins.

Letters: N training videos, n judged ones, D width, C classes, k neighbours, G settings.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from functools import partial

import numpy as np
import torch
import torch.nn.functional as F
from numpy.typing import NDArray
from torch import Tensor

from mgm_dali.config.probe import ProbeConfig
from mgm_dali.training.feature_store import FeatureTable
from mgm_dali.training.probe_data import Classify, Examples, Fitting, mean_of_views

__all__ = ["KnnSetting", "fit_knn", "knn_settings", "nearest", "with_fewer_neighbours"]

ROWS_AT_ONCE = 4096
COSINES_AT_ONCE = 2**25
"""Cosines that are in memory at once: 128 MB."""


@dataclass(frozen=True)
class KnnSetting:
    """One point of the grid."""

    neighbours: int
    temperature: float


def knn_settings(config: ProbeConfig) -> list[KnnSetting]:
    """Every number of neighbours."""
    return [KnnSetting(count, config.knn.temperature) for count in config.knn.neighbours]


def with_fewer_neighbours(config: ProbeConfig, num_videos: int) -> ProbeConfig:
    """The config in which no more neighbours vote than there are videos, each number once."""
    counts = dict.fromkeys(min(count, num_videos) for count in config.knn.neighbours)
    knn = config.knn.model_copy(update={"neighbours": tuple(counts)})
    return config.model_copy(update={"knn": knn})


def fit_knn(settings: Sequence[KnnSetting], train: Examples, fitting: Fitting) -> Classify:
    """Keeps the directions of all training videos, `[N, D]` float32. Of fewer than k all vote."""
    parts = np.array_split(train.rows, -(-len(train) // ROWS_AT_ONCE))
    known = torch.cat([_directions(train.table, rows, fitting.device) for rows in parts])
    labels = torch.from_numpy(train.labels).to(fitting.device)
    return partial(_probabilities, settings, known, labels, fitting.num_classes)


def _directions(table: FeatureTable, rows: NDArray[np.int64], device: torch.device) -> Tensor:
    features = table.take("mean", rows).to(device)
    return F.normalize(mean_of_views(features, table.is_read[rows]), dim=1)


def _probabilities(
    settings: Sequence[KnnSetting],
    known: Tensor,
    labels: Tensor,
    num_classes: int,
    table: FeatureTable,
    rows: NDArray[np.int64],
) -> Tensor:
    asked = _directions(table, rows, known.device)
    at_once = max(COSINES_AT_ONCE // len(known), 1)
    votes = []
    for first in range(0, len(asked), at_once):
        cosines = asked[first : first + at_once] @ known.T
        votes.append(torch.stack([_votes(s, cosines, labels, num_classes) for s in settings]))
    return torch.cat(votes, dim=1)


def _votes(setting: KnnSetting, cosines: Tensor, labels: Tensor, num_classes: int) -> Tensor:
    """Of cosines `[n, N]` each class's share of the votes, `[n, C]` float64."""
    near = nearest(cosines, min(setting.neighbours, len(labels)))
    votes = (cosines.gather(1, near).double() / setting.temperature).exp()
    of_class = votes.new_zeros(len(cosines), num_classes)
    for place in range(near.shape[1]):  # one behind the other, so that sums are always the same
        of_class.scatter_add_(1, labels[near[:, place, None]], votes[:, place, None])
    return of_class / votes.sum(dim=1, keepdim=True)


def nearest(cosines: Tensor, count: int) -> Tensor:
    """Places of the `count` highest of each row `[n, N]`, `[n, count]` rising; of equals the first.

    `topk` alone would choose among equals as it likes.
    """
    lowest = cosines.topk(count, dim=1).values[:, -1:]
    higher, equal = cosines > lowest, cosines == lowest
    room = count - higher.sum(dim=1, keepdim=True)
    chosen = higher | (equal & (equal.cumsum(dim=1) <= room))
    return chosen.nonzero()[:, 1].view(len(cosines), count)
