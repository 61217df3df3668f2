"""G5: our loader from files to batches, with NVDEC and without, each choice varied by itself."""

import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from functools import partial
from typing import Any

from gpu.configs import config_for
from gpu.defaults import DECODE, IS_DEFAULT, LOADER, PREFETCH, THREADS, WORKERS
from gpu.findings import Findings
from gpu.made_videos import NUM_VIDEOS, made, motion_store
from gpu.measuring import Load, rate_of, resident_megabytes, synchronizer
from gpu.setting import NVDEC_LIBRARY, Setting, can_load
from mgm_dali.config import DataConfig, RunConfig
from mgm_dali.pipelines import graph, make_loader

__all__ = ["Contender", "as_it_is", "contenders", "graph_threads", "loading", "measure_loader"]

PREFETCH_NOW = DataConfig().prefetch_batches


@dataclass(frozen=True)
class Contender:
    """One way to read clips."""

    decode: str
    workers: int
    motion: str = "store"
    """`store`, or `codec` for live."""
    threads: int | None = None
    """Of DALI; None leaves what the code says."""
    prefetch: int = PREFETCH_NOW
    repeats: int = 1
    videos: str = "prepared"


def as_it_is(setting: Setting) -> Contender:
    """What the code chooses by itself where a motion store is given."""
    if setting.tiny:
        return Contender("cpu", 1)
    return Contender("nvdec", DataConfig().num_workers)


def contenders(setting: Setting) -> list[Contender]:
    """NVDEC as it is and decoding on the CPU, then what differs from NVDEC in one thing."""
    usual = as_it_is(setting).workers
    if setting.tiny:
        return [Contender("cpu", 1, threads=1), as_it_is(setting)]
    nvdec, cpu = partial(Contender, "nvdec"), partial(Contender, "cpu", setting.workers)
    return [
        as_it_is(setting),
        cpu(),
        cpu("codec"),
        cpu("codec", repeats=4),
        nvdec(usual, threads=16),
        nvdec(usual, prefetch=4),
        nvdec(4),
        nvdec(usual, videos="as found"),
    ]


def loading(setting: Setting, findings: Findings) -> None:
    """Pretraining clips with their motion, on the device, by each contender."""
    has_nvdec = not setting.on_gpu or can_load(NVDEC_LIBRARY)
    with Load() as load:
        for contender in contenders(setting):
            known = {
                "videos": contender.videos,
                DECODE: contender.decode,
                "motion": contender.motion,
                WORKERS: contender.workers,
                PREFETCH: contender.prefetch,
                "repeats": contender.repeats,
            }
            with findings.row(LOADER, known) as row:
                if contender.decode == "nvdec" and not has_nvdec:
                    raise RuntimeError(f"there is no {NVDEC_LIBRARY}")
                config = _config(setting, contender)
                with graph_threads(contender.threads) as seen:
                    row |= measure_loader(setting, config, load)
                row[THREADS] = seen[-1]
                row[IS_DEFAULT] = contender == as_it_is(setting)


def measure_loader(
    setting: Setting, config: RunConfig, load: Load, stage: Any = "pretrain"
) -> dict[str, object]:
    """Columns for a loader's speed, memory, and the time to its first batch."""
    start = time.perf_counter()
    with make_loader(config, stage) as loader:
        batches = (len(batch) for batch in loader.endless())
        next(batches)
        first = time.perf_counter() - start
        for _ in range(config.data.prefetch_batches + 1):  # what was read ahead meanwhile
            next(batches)
        start = time.perf_counter()
        rate = rate_of(batches, setting.pick(4.5, 0.1), synchronizer(setting))
        return {
            **rate.columns(),
            **load.since(start),
            "first batch s": first,
            "host MB": resident_megabytes(),
            "skipped": loader.num_skipped,
        }


@contextmanager
def graph_threads(count: int | None) -> Iterator[list[int]]:
    """Meanwhile DALI's pipelines have so many threads; yields those of each one that is made.

    The configuration has no key for it. None leaves what the code says.
    """
    original, seen = graph._graph, []

    def changed(*inputs: Any, num_threads: int, **options: Any) -> Any:
        seen.append(num_threads if count is None else count)
        return original(*inputs, num_threads=seen[-1], **options)

    graph._graph = changed
    try:
        yield seen
    finally:
        graph._graph = original


def _config(setting: Setting, contender: Contender) -> RunConfig:
    manifest = made(setting, contender.videos, setting.pick(NUM_VIDEOS, 4))
    store = motion_store(setting, manifest) if contender.motion == "store" else None
    data = {
        "num_workers": contender.workers,
        "prefetch_batches": contender.prefetch,
        "motion_store": store,
    }
    augment = {"repeats": contender.repeats}
    return config_for(setting, manifest, decode=contender.decode, data=data, augment=augment)
