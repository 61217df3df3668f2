"""Ranks that are threads of one process: enough for what only sums over ranks."""

import threading
from dataclasses import dataclass

import torch

__all__ = ["on_ranks"]


@dataclass(frozen=True)
class ThreadWorld:
    """Ranks that are threads of this process; as much of a world as views need."""

    rank: int
    size: int
    sums: list
    barrier: threading.Barrier
    device = torch.device("cpu")

    def sum(self, value):
        self.sums[self.rank] = value.clone()
        self.barrier.wait()
        value.copy_(torch.stack(self.sums).sum(0))
        self.barrier.wait()
        return value


def on_ranks(size, work):
    """What `work(world)` gives on each of `size` ranks that run at the same time."""
    found, barrier, sums = [None] * size, threading.Barrier(size, timeout=60), [None] * size

    def run(rank):
        found[rank] = work(ThreadWorld(rank, size, sums, barrier))

    threads = [threading.Thread(target=run, args=(rank,)) for rank in range(size)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    return found
