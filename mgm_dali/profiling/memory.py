"""Memory that a run holds: in its own process, in those that read, and on the device."""

from dataclasses import dataclass

import psutil
import torch

__all__ = ["Memory", "memory_of"]


@dataclass(frozen=True)
class Memory:
    """Bytes of one rank."""

    process_bytes: int
    """Resident memory of this process; clips that it has looked at in shared memory count too."""
    workers_bytes: int
    """Resident memory of all processes that it has started, pages that they share counted in each.
    """
    shared_bytes: int
    """In which clips are handed over."""
    device_bytes: int
    """The most that PyTorch has held on the GPU; 0 without one."""
    device_all_bytes: int
    """In use on the GPU by everybody, DALI's part included."""


def memory_of(device: torch.device, shared_bytes: int) -> Memory:
    """What this process and those it has started hold now."""
    this = psutil.Process()
    workers = 0
    for process in this.children(recursive=True):
        try:
            workers += process.memory_info().rss
        except psutil.Error:  # it has just ended
            continue
    on_device = in_use = 0
    if device.type == "cuda":
        on_device = torch.cuda.max_memory_reserved(device)
        free, whole = torch.cuda.mem_get_info(device)
        in_use = whole - free
    return Memory(this.memory_info().rss, workers, shared_bytes, on_device, in_use)
