"""The views of every video through a classifier, merged by manifest row over all ranks.

Letters: V videos, M outputs of the classifier that are looked at, C classes.
"""

from collections.abc import Callable, Mapping
from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from mgm_dali.config import RunConfig
from mgm_dali.pipelines.feed import REASON_BYTES, reason_bytes, reason_text
from mgm_dali.pipelines.loader import ClipLoader
from mgm_dali.pipelines.share import Share
from mgm_dali.training.classes import Judged
from mgm_dali.training.judging import autocast
from mgm_dali.training.world import World

__all__ = ["MergedViews", "merge_views", "merged", "open_views", "reasons_of", "summed_views"]


@dataclass(frozen=True, eq=False)
class MergedViews:
    """What a classifier makes of each video, from all its views."""

    probabilities: NDArray[np.float64]
    """`[V, C]`; NaN where nothing could be judged."""
    num_views: NDArray[np.int64]
    """`[V]`, views that could be read."""
    reasons: dict[int, str]
    """Why nothing could be judged, by row."""


def open_views(config: RunConfig, judged: Judged, world: World) -> ClipLoader:
    """This rank's share of the views, as batches."""
    share = Share(config.evaluation.batch_size, world.rank, world.size)
    return ClipLoader(config, "evaluate", share, needs_motion=False, manifest=judged.manifest)


def merge_views(
    config: RunConfig,
    network: nn.Module,
    world: World,
    loader: ClipLoader,
    judged: Judged,
    advance: Callable[[int], None],
) -> MergedViews:
    """Judges all views of all ranks; `advance` is called with the number of batches done."""
    network = network.to(world.device).eval()
    sums = world.sum(summed_views(config, network, loader, judged, advance)).cpu()
    probabilities = merged(sums, config.evaluation.merge, judged).numpy()
    rows = np.flatnonzero(~np.isfinite(probabilities).all(axis=1))
    return MergedViews(
        probabilities=probabilities,
        num_views=sums[:, -1].long().numpy(),
        reasons=dict(zip(rows.tolist(), reasons_of(rows, loader.reasons, world), strict=True)),
    )


def summed_views(
    config: RunConfig,
    network: nn.Module,
    loader: ClipLoader,
    judged: Judged,
    advance: Callable[[int], None],
) -> Tensor:
    """Sum of what this rank's readable views say, and their number: `[V, M + 1]`.

    Summed by manifest row in float64, so that the order of the views and the number of ranks do
    not matter, and nothing is counted twice or lost.
    """
    device = loader.placement.device
    outputs = torch.from_numpy(judged.outputs).to(device)
    sums = torch.zeros(len(loader.manifest), len(outputs) + 1, dtype=torch.float64, device=device)
    for done, batch in enumerate(loader, start=1):
        counted = batch.index >= 0
        counted[loader.replaced] = False
        with torch.inference_mode(), autocast(config, device):
            says = network(batch.video).double()[:, outputs]
        if config.evaluation.merge == "probabilities":
            says = says.softmax(-1)
        rows = torch.cat((says, torch.ones_like(says[:, :1])), dim=1)
        sums.index_add_(0, batch.index[counted], rows[counted])
        advance(done)
    return sums


def merged(sums: Tensor, merge: str, judged: Judged) -> Tensor:
    """Probabilities `[V, C]` from sums over views `[V, M + 1]`; NaN where there was no view.

    Probabilities of outputs that speak for the same class are added.
    """
    means = sums[:, :-1] / sums[:, -1:]
    if merge == "logits":
        means = means.softmax(-1)
    classes = torch.from_numpy(judged.classes)
    return means.new_zeros(len(means), judged.num_classes).index_add_(1, classes, means)


def reasons_of(rows: NDArray[np.int64], own: Mapping[int, str], world: World) -> list[str]:
    """Why nothing could be judged of these rows, as the lowest rank that knows says. All call it.

    `own` are this rank's reasons; `rows` are the same on all. Ranks sum, as everywhere: first who
    knows, then bytes of which all but one rank have zeros.
    """
    if not len(rows):
        return []
    knows = torch.zeros(len(rows), world.size, dtype=torch.int32, device=world.device)
    knows[:, world.rank] = torch.tensor([int(row) in own for row in rows])
    lowest = world.sum(knows).cpu().numpy().argmax(axis=1)
    written = np.zeros((len(rows), REASON_BYTES), np.uint8)
    for place, row in enumerate(rows.tolist()):
        if lowest[place] == world.rank:
            reason = own.get(row, "the network's output for it is no number")
            written[place] = reason_bytes(reason)
    told = world.sum(torch.from_numpy(written).to(world.device)).cpu()
    return [reason_text(line) for line in told.tolist()]
