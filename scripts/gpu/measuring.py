"""Clips a second, CPU time and memory, of this process and those it has started."""

import ctypes
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import suppress
from statistics import median
from typing import Any, NamedTuple

import psutil
from typing_extensions import Self

from gpu.defaults import CPU, HIGH, LOW, RATE
from gpu.setting import Setting

__all__ = ["Load", "Rate", "cpu_seconds", "rate_of", "resident_megabytes", "synchronizer"]

NUM_STRETCHES = 3
SAMPLE_SECONDS = 0.2


class Rate(NamedTuple):
    """Of some stretches of time: the median one, the slowest and the fastest."""

    clips_per_second: float
    low: float
    high: float
    cpu_ms_per_clip: float
    """Of all threads and processes."""

    def columns(self) -> dict[str, object]:
        """For a table."""
        return dict(zip((RATE, LOW, HIGH, CPU), self, strict=True))


def rate_of(batches: Iterator[int], seconds: float, wait: Callable[[], object]) -> Rate:
    """Takes batches, given as their numbers of clips, for so long.

    `wait` ends when all that was asked of the device is done. The iterator must not end.
    """
    rates, clips, cpu_start = [], 0, cpu_seconds()
    for _ in range(NUM_STRETCHES):
        wait()
        start, done = time.perf_counter(), 0
        while not done or time.perf_counter() - start < seconds / NUM_STRETCHES:
            done += next(batches)
        wait()
        rates.append(done / (time.perf_counter() - start))
        clips += done
    cpu_ms = (cpu_seconds() - cpu_start) / clips * 1e3
    return Rate(median(rates), min(rates), max(rates), cpu_ms)


def synchronizer(setting: Setting) -> Callable[[], object]:
    """What waits for all of the device's work; nothing on a CPU."""
    if not setting.on_gpu:
        return lambda: None
    import torch

    return torch.cuda.synchronize


def cpu_seconds() -> float:
    """Of this process and its children, also of those that have ended."""
    return sum(_of_all(lambda process: sum(process.cpu_times()[:4])))


def resident_megabytes() -> float:
    """Of this process and its children, shared memory of two counted twice."""
    return sum(_of_all(lambda process: process.memory_info().rss)) / 1e6


def _of_all(number: Callable[[psutil.Process], float]) -> Iterator[float]:
    this = psutil.Process()
    for process in (this, *this.children(recursive=True)):
        with suppress(psutil.NoSuchProcess):  # it has ended meanwhile
            yield number(process)


class _Rates(ctypes.Structure):
    _fields_ = (("gpu", ctypes.c_uint), ("memory", ctypes.c_uint))


class Load:
    """How busy the GPU's decoders and multiprocessors are meanwhile, in percent.

    From the library that `nvidia-smi` itself asks (NVML). Without it, and for what this GPU does
    not tell, there is None.
    """

    def __init__(self, library: Any = None) -> None:
        self._library = library or _nvml()
        self._samples: list[tuple[float, int | None, int | None]] = []
        self._stop = threading.Event()
        self._thread = threading.Thread(target=self._run, name="GPU load", daemon=True)

    def __enter__(self) -> Self:
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._stop.set()
        self._thread.join()

    def since(self, start: float) -> dict[str, object]:
        """Means since a moment of `time.perf_counter`, by column."""
        taken = [sample[1:] for sample in self._samples if sample[0] >= start]
        decoders, multiprocessors = zip(*taken, strict=True) if taken else ((), ())
        return {"NVDEC %": _mean(decoders), "GPU %": _mean(multiprocessors)}

    def _run(self) -> None:
        if self._library is None or self._library.nvmlInit_v2():
            return
        device = ctypes.c_void_p()
        if self._library.nvmlDeviceGetHandleByIndex_v2(0, ctypes.byref(device)):
            return
        while not self._stop.wait(SAMPLE_SECONDS):
            busy, period, rates = ctypes.c_uint(), ctypes.c_uint(), _Rates()
            no_decoder = self._library.nvmlDeviceGetDecoderUtilization(
                device, ctypes.byref(busy), ctypes.byref(period)
            )
            no_rates = self._library.nvmlDeviceGetUtilizationRates(device, ctypes.byref(rates))
            found = None if no_decoder else busy.value, None if no_rates else rates.gpu
            self._samples.append((time.perf_counter(), *found))


def _nvml() -> Any:
    try:
        return ctypes.CDLL("libnvidia-ml.so.1")
    except OSError:
        return None


def _mean(values: tuple[int | None, ...]) -> float | None:
    known = [value for value in values if value is not None]
    return sum(known) / len(known) if known else None
