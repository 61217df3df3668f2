"""What a device reaches at its best, in a large product and in copies."""

import time
from collections.abc import Callable

import torch

from gpu.findings import Findings
from gpu.setting import Setting

__all__ = ["at_its_best", "product_tflops"]

SIDE = 8192
COPIED_BYTES = 2**31


def at_its_best(setting: Setting, findings: Findings) -> None:
    """A row for each; copies only of a GPU."""
    rates: dict[str, Callable[[], float]] = {
        "bfloat16 product, TFLOP/s": lambda: product_tflops(torch.device(setting.device))
    }
    if setting.on_gpu:
        rates["copy on the device, GB/s"] = _copy_on_the_device
        rates["copy pageable to device, GB/s"] = lambda: _copy_from_host(pinned=False)
        rates["copy pinned to device, GB/s"] = lambda: _copy_from_host(pinned=True)
    for what, rate in rates.items():
        with findings.row("at its best", {"what": what}) as row:
            row["found"] = rate()


def product_tflops(device: torch.device) -> float:
    """What this device reaches in one large bfloat16 product: TFLOP/s, of random numbers."""
    side = SIDE if device.type == "cuda" else 256
    one, other = torch.randn(2, side, side, device=device).bfloat16()
    seconds = []
    for _ in range(8):
        _wait(device)
        start = time.perf_counter()
        one @ other
        _wait(device)
        seconds.append(time.perf_counter() - start)
    return 2 * side**3 / min(seconds[2:]) / 1e12


def _wait(device: torch.device) -> None:
    if device.type == "cuda":
        torch.cuda.synchronize(device)


def _copy_on_the_device() -> float:
    here = torch.empty(COPIED_BYTES, dtype=torch.uint8, device="cuda")
    there = torch.empty_like(here)
    return _gigabytes_a_second(lambda: there.copy_(here), COPIED_BYTES)


def _copy_from_host(*, pinned: bool) -> float:
    size_bytes = COPIED_BYTES // 4
    here = torch.empty(size_bytes, dtype=torch.uint8, pin_memory=pinned)
    there = torch.empty(size_bytes, dtype=torch.uint8, device="cuda")
    return _gigabytes_a_second(lambda: there.copy_(here), size_bytes)


def _gigabytes_a_second(copy: Callable[[], object], size_bytes: int) -> float:
    """Its bytes counted once."""
    start, end = (torch.cuda.Event(enable_timing=True) for _ in range(2))  # type: ignore[no-untyped-call]
    best_ms = float("inf")
    for _ in range(4):
        start.record()
        copy()
        end.record()
        torch.cuda.synchronize()
        best_ms = min(best_ms, start.elapsed_time(end))
    return size_bytes / best_ms / 1e6
