"""What a rank has of its machine: its share of the processor's cores."""

import os
from pathlib import Path

import torch

from mgm_dali.training.world import World

__all__ = ["cores_here", "cores_of_a_rank"]

CGROUP_LIMIT = Path("/sys/fs/cgroup/cpu.max")
"""`quota period` in microseconds, or `max period`: what a container may use."""


def cores_here(limit: Path = CGROUP_LIMIT) -> float:
    """Cores that this process may use, of which a container may allow a fraction."""
    cores = float(len(os.sched_getaffinity(0)))
    try:
        quota, period = limit.read_text().split()
        return min(cores, int(quota) / int(period))
    except (OSError, ValueError):  # there is no limit
        return cores


def cores_of_a_rank(world: World) -> float:
    """This machine's cores by the ranks on it. All ranks must call it."""
    names = _hosts(world)
    return cores_here() / names.count(names[world.rank])


def _hosts(world: World) -> list[str]:
    """The host of every rank."""
    own = torch.zeros(world.size, 64, dtype=torch.int32, device=world.device)
    name = os.uname().nodename.encode()[:64].ljust(64, b"\0")
    own[world.rank] = torch.tensor(list(name), dtype=torch.int32)
    return [bytes(row).decode(errors="replace") for row in world.sum(own).tolist()]
