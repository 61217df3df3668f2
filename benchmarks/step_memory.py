"""The memory that a pretraining step takes, each contender in a process of its own.

On a GPU it is what torch has allocated. On a CPU it is resident memory: Linux is told to forget the
highest so far, one step is taken, and what the highest then is beyond the memory held before is the
step's. A first step, not counted, makes the optimiser's state.
"""

import ctypes
import multiprocessing
import re
from concurrent.futures import ProcessPoolExecutor
from concurrent.futures.process import BrokenProcessPool
from dataclasses import dataclass
from pathlib import Path

import torch
from step_contenders import CONTENDERS, Inputs, Setup, first_network

from mgm_dali.errors import UserError

__all__ = ["Memory", "memory_of"]

IMPORTED_ONCE = ["mgm_dali.training.engine", "transformers.models.videomae.modeling_videomae"]


@dataclass(frozen=True)
class Memory:
    """Megabytes (10^6 bytes)."""

    held: float
    """Between steps: weights and optimiser; on a CPU also the libraries' own."""
    of_step: float
    """What a step needs beside, at its highest: activations and gradients."""


def memory_of(setup: Setup, label: str, threads: int) -> Memory:
    """Measured in a new process; raises `UserError` if that cannot be."""
    # Forked from a process that has imported what takes long, but has no threads yet as this one.
    context = multiprocessing.get_context("forkserver")
    context.set_forkserver_preload(IMPORTED_ONCE)
    with ProcessPoolExecutor(1, mp_context=context) as one_process:
        try:
            return one_process.submit(_measure, setup, label, threads).result()
        except torch.OutOfMemoryError as error:
            raise UserError(str(error).splitlines()[0]) from None
        except BrokenProcessPool:
            raise UserError("its process was killed, as happens without memory") from None


def _measure(setup: Setup, label: str, threads: int) -> Memory:
    torch.set_num_threads(threads)
    step = CONTENDERS[label](setup, Inputs.of(setup))
    first_network.cache_clear()  # no part of what a step needs
    step()
    if setup.device == "cuda":
        torch.cuda.reset_peak_memory_stats()
        held = torch.cuda.memory_allocated()
        step()
        highest = torch.cuda.max_memory_allocated()
    else:
        held = _forget_highest()
        step()
        highest = _resident("VmHWM")
    return Memory(held / 1e6, (highest - held) / 1e6)


def _forget_highest() -> int:
    """Gives free memory back to the system; the bytes that stay."""
    ctypes.CDLL(None).malloc_trim(0)
    Path("/proc/self/clear_refs").write_text("5")
    return _resident("VmRSS")


def _resident(field: str) -> int:
    """Bytes of a line in /proc/self/status."""
    found = re.search(rf"^{field}:\s+(\d+) kB", Path("/proc/self/status").read_text(), re.MULTILINE)
    assert found is not None
    return int(found[1]) * 1024
