"""Pretrained weights into a network of all ranks: the first one reads them for the others."""

from pathlib import Path

import torch

from mgm_dali.models import Autoencoder, Classifier, LoadReport, load_pretrained
from mgm_dali.training.world import World

__all__ = ["load_on_all_ranks"]


@torch.no_grad()
def load_on_all_ranks(network: Autoencoder | Classifier, source: Path, world: World) -> LoadReport:
    """As `load_pretrained`; only the first rank's machine needs the file. All ranks must call it.

    Only the first rank's report names parameters. Raises `UserError`, on all ranks, if that one
    cannot take the weights.
    """
    nothing_said = LoadReport(source, [], [])
    report = world.only_first(lambda: load_pretrained(network, source), nothing_said)
    for tensor in network.state_dict().values():
        tensor.copy_(world.from_first(tensor.to(world.device)))
    return report
