"""G10: what RandAugment and erasing cost on the device, and whether loading hides behind a step."""

import time
from collections.abc import Iterator
from contextlib import closing
from itertools import cycle
from typing import Any

import numpy as np
from numpy.typing import NDArray
from nvidia.dali import fn, types
from nvidia.dali.pipeline import Pipeline

from gpu.configs import config_for
from gpu.dali_decoder import batches_of
from gpu.findings import Findings
from gpu.made_videos import NUM_VIDEOS, made, motion_store
from gpu.measuring import Load, rate_of, synchronizer
from gpu.setting import NVDEC_LIBRARY, Setting, can_load
from gpu.stepping import Stepper, free_memory
from mgm_dali.clips.rand_augment import LEVELS
from mgm_dali.config import RunConfig
from mgm_dali.pipelines import make_loader
from mgm_dali.pipelines.rand_augment import OPERATIONS

__all__ = ["augmenting", "hidden_share"]

LAYERS = {"layers": 4}
FINETUNING: dict[str, dict[str, object]] = {
    "nothing": {},
    "RandAugment": {"rand_augment": LAYERS},
    "RandAugment, always applied": {"rand_augment": {**LAYERS, "probability": 1.0}},
    "RandAugment and erasing": {"rand_augment": LAYERS, "erase": 0.25},
    "RandAugment and erasing, 2 clips of a decoding": {
        "rand_augment": LAYERS,
        "erase": 0.25,
        "repeats": 2,
    },
}
"""By name, the section `augment`."""


def augmenting(setting: Setting, findings: Findings) -> None:
    """Operation by operation, then in our loader, then beside a training step."""
    _operations(setting, findings)
    with Load() as load:
        names = list(FINETUNING) if not setting.tiny else ["nothing", "RandAugment and erasing"]
        for name in names:
            with findings.row("finetuning clips", {"augmentation": name}) as row:
                config = _config(setting, "as it is", augment=FINETUNING[name])
                row["decode"] = config.decode
                start = time.perf_counter()
                with make_loader(config, "finetune") as loader:
                    clips = (len(batch) for batch in loader.endless())
                    for _ in range(config.data.prefetch_batches + 2):
                        next(clips)
                    start = time.perf_counter()
                    seconds = setting.pick(4.0, 0.1)
                    rate = rate_of(clips, seconds, synchronizer(setting))
                row |= {**rate.columns(), **load.since(start)}
    for repeats in (1, 4):
        _overlap(setting, findings, repeats)
        free_memory()


def _operations(setting: Setting, findings: Findings) -> None:
    """Each operation at its strongest, on whole frames; `identity` is what all pay for coming."""
    shape = setting.pick((16, 256, 320, 3), (2, 32, 32, 3))
    clip = np.random.default_rng(0).integers(0, 256, shape, np.uint8)
    batch = setting.pick(16, 2)
    names = list(OPERATIONS) if not setting.tiny else ["identity", "rotate"]
    for name in names:
        known = {"operation": name, "batch": batch}
        with findings.row("operations on 16 frames of 320x256", known) as row:
            pipeline = _pipeline_of(setting, name, [clip] * batch)
            clips = batches_of(pipeline)
            next(clips)
            rate = rate_of(clips, setting.pick(0.9, 0.1), synchronizer(setting))
            row |= {**rate.columns(), "ms/clip": 1e3 / rate.clips_per_second}


def _pipeline_of(setting: Setting, name: str, clips: list[NDArray[np.uint8]]) -> Pipeline:
    levels = [np.array(LEVELS, np.int32)] * len(clips)
    pipeline = Pipeline(len(clips), num_threads=2, device_id=setting.device_id)
    with pipeline:
        pixels, level = fn.external_source(
            lambda: (clips, levels),
            num_outputs=2,
            batch=True,
            dtype=[types.UINT8, types.INT32],
            ndim=[4, 0],
            layout=["FHWC", ""],
        )
        on_device = pixels.gpu() if setting.on_gpu else pixels
        pipeline.set_outputs(OPERATIONS[name](on_device, level))
    pipeline.build()
    return pipeline


def _overlap(setting: Setting, findings: Findings, repeats: int) -> None:
    """Steps alone, loading alone, both: as in a training loop, where loading goes on meanwhile."""
    with (
        findings.row("a step of ViT-B and the loader", {"repeats": repeats}) as row,
        closing(Stepper.of(setting, "vit_base")) as stepper,
    ):
        batch_size = stepper.config.training.batch_size
        step = stepper.step(batch_size, 0.75)
        config = _config(setting, "store", augment={"repeats": repeats})
        row["decode"] = config.decode
        seconds, wait = setting.pick(4.0, 0.2), synchronizer(setting)
        for _ in range(setting.pick(5, 1)):
            step()

        def steps(stream: Iterator[Any]) -> Iterator[int]:
            for _ in stream:
                step()
                yield batch_size

        alone = rate_of(steps(cycle((None,))), seconds, wait)
        with make_loader(config, "pretrain") as loader:
            stream = loader.endless()
            for _ in range(config.data.prefetch_batches + 2):
                next(stream)
            loading = rate_of((len(batch) for batch in stream), seconds, wait)
            both = rate_of(steps(stream), seconds, wait)
        times = [1 / each.clips_per_second for each in (alone, loading, both)]
        row |= {"batch": batch_size, "steps alone, clips/s": alone.clips_per_second}
        row |= {"loading alone, clips/s": loading.clips_per_second}
        row |= {"both, clips/s": both.clips_per_second, "share hidden": hidden_share(*times)}


def hidden_share(one: float, other: float, both: float) -> float:
    """Of the shorter of two times, how much of it vanishes when both go on together."""
    return (one + other - both) / min(one, other)


def _config(setting: Setting, motion: str, augment: dict[str, object]) -> RunConfig:
    manifest = made(setting, "prepared", setting.pick(NUM_VIDEOS, 4))
    data: dict[str, object] = {"num_workers": setting.pick(8, 1)}
    if motion == "store":
        data["motion_store"] = motion_store(setting, manifest)
    decode = setting.decode
    if setting.on_gpu and not can_load(NVDEC_LIBRARY):
        decode, data["num_workers"] = "cpu", setting.workers
    return config_for(setting, manifest, decode=decode, data=data, augment=augment)
