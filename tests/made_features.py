"""Feature tables for the tests of probes, made of arrays, in several shards."""

from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from mgm_dali.config.probe import ProbeConfig
from mgm_dali.training import feature_store
from mgm_dali.training.feature_store import FeatureSpec, FeatureTable
from mgm_dali.training.probe_data import Examples, Fitting

__all__ = ["examples_of", "fitting_for", "planted", "table_of"]

VIEWS_PER_SHARD = feature_store.VIEWS_PER_SHARD


def table_of(
    mean: NDArray[Any],
    is_read: NDArray[np.bool_] | None = None,
    tokens: NDArray[Any] | None = None,
) -> FeatureTable:
    """`mean [N, V, D]`, `is_read [N, V]` (None: all), `tokens [N, V, S, D]`."""
    rows, views, width = mean.shape
    state = np.full((rows, views), 2) if is_read is None else np.where(is_read, 2, 1)
    spec = FeatureSpec("train", {}, rows, views, width, 0 if tokens is None else tokens.shape[2])
    whole = {"mean": torch.tensor(mean).float(), "state": torch.tensor(state).to(torch.uint8)}
    if tokens is not None:
        whole["tokens"] = torch.tensor(tokens).half()
    shards = [spec.rows_of(number) for number in range(spec.num_shards)]
    return FeatureTable(
        spec, [{n: t[rows.start : rows.stop] for n, t in whole.items()} for rows in shards], {}
    )


def planted(
    num_rows: int, num_classes: int, width: int, views: int = 2, seed: int = 0
) -> tuple[NDArray[np.float64], NDArray[np.int64]]:
    """Features `[N, V, D]` in which each class has a direction of its own under noise; labels."""
    rng = np.random.default_rng(seed)
    directions = np.random.default_rng(99).normal(size=(num_classes, width))
    labels = rng.integers(0, num_classes, num_rows)
    noise = rng.normal(size=(num_rows, views, width))
    return directions[labels][:, None] + 0.5 * noise, labels


def examples_of(table: FeatureTable, labels: NDArray[np.int64]) -> Examples:
    rows = table.readable_rows
    return Examples(table, rows, labels[rows])


def fitting_for(num_classes: int, seed: int = 3, **probe: Any) -> Fitting:
    config = ProbeConfig.model_validate(probe)
    return Fitting(config, num_classes, seed, torch.device("cpu"), lambda: None)
