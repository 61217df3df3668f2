"""What a rank has of its machine: cores, and who else uses them."""

import os
from collections.abc import Sequence
from pathlib import Path

import psutil
import torch

from mgm_dali.training.world import World

__all__ = ["cores_allowed", "cores_of_a_rank", "cpu_seconds_of_all", "ranks_here"]

CGROUP_LIMIT = Path("/sys/fs/cgroup/cpu.max")
"""`quota period` in microseconds, or `max period`: what a container may use."""
NAME_BYTES, MOST_CORES = 64, 4096


def cores_allowed(limit: Path = CGROUP_LIMIT) -> float:
    """Cores' worth of time that a container allows; infinite where it sets no limit."""
    try:
        quota, period = limit.read_text().split()
        return int(quota) / int(period)
    except (OSError, ValueError):
        return float("inf")


def ranks_here(world: World) -> list[int]:
    """The ranks on this machine, by its name. All ranks must call it."""
    names = torch.zeros(world.size, NAME_BYTES, dtype=torch.int32, device=world.device)
    name = os.uname().nodename.encode()[:NAME_BYTES].ljust(NAME_BYTES, b"\0")
    names[world.rank] = torch.tensor(list(name), dtype=torch.int32)
    same = (world.sum(names) == names[world.rank]).all(dim=1)
    return [rank for rank, here in enumerate(same.tolist()) if here]


def cores_of_a_rank(world: World, here: Sequence[int]) -> float:
    """This machine's cores, each by the ranks `here` that may use it. All ranks must call it."""
    may_use = torch.zeros(world.size, MOST_CORES, device=world.device)
    own = sorted(core for core in os.sched_getaffinity(0) if core < MOST_CORES)
    may_use[world.rank, own] = 1
    users = world.sum(may_use)[list(here)].sum(dim=0)[own]
    return min(float((1 / users).sum()), cores_allowed() / len(here))


def cpu_seconds_of_all() -> float:
    """CPU time of all programs of this machine since it began."""
    times = psutil.cpu_times()
    total: float = times.user + times.nice + times.system
    return total
