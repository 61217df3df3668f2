"""Finetuning ViT-B with all augmentation, and evaluating it: clips a second."""

import time
from itertools import pairwise
from pathlib import Path
from statistics import median
from typing import Any

import torch

from gpu.configs import config_for
from gpu.findings import Findings
from gpu.made_videos import NUM_VIDEOS, made
from gpu.pretraining import run_command
from gpu.setting import NVDEC_LIBRARY, Setting, can_load
from mgm_dali.config import RunConfig
from mgm_dali.models import build_classifier
from mgm_dali.pipelines.placement import choose_device
from mgm_dali.training.classes import judged_by, with_num_classes
from mgm_dali.training.computing import prepare, with_kernel, with_precision
from mgm_dali.training.views import merge_views, open_views
from mgm_dali.training.world import join_world

__all__ = ["finetuning"]

AUGMENT = {
    "crop": "random_resized",
    "repeats": 2,
    "rand_augment": {"layers": 4},
    "erase": 0.25,
    "mixup": 0.8,
    "cutmix": 1.0,
    "label_smoothing": 0.1,
}


def finetuning(setting: Setting, findings: Findings) -> None:
    """As configs/finetune/k400_vitb.yaml has it, from random weights; then 5 x 3 views."""
    manifest = made(setting, "prepared", setting.pick(NUM_VIDEOS, 4))
    decoders = ("nvdec", "cpu") if setting.on_gpu else ("cpu",)
    if setting.on_gpu and not can_load(NVDEC_LIBRARY):
        findings.note(f"without NVDEC: there is no {NVDEC_LIBRARY}")
        decoders = ("cpu",)
    _finetune(setting, findings, manifest, decoders[0])
    for decode in decoders:
        known = {"decode": decode, "workers": _workers(setting, decode)}
        with findings.row("evaluating", {**known, "views": setting.pick("5 x 3", "2")}) as row:
            row |= _evaluate(setting, manifest, decode)


def _finetune(setting: Setting, findings: Findings, manifest: Path, decode: str) -> None:
    workers = _workers(setting, decode)
    training = {
        "batch_size": setting.pick(32, 4),
        "max_steps": setting.pick(100_000, 6),
        "max_minutes": setting.pick(0.5, 1.0),
        "log_every_steps": setting.pick(5, 2),
        "layer_decay": 0.75,
        "checkpoint_every_steps": 10**6,
    }
    with findings.row("finetuning", {"decode": decode, "workers": workers}) as row:
        data = {"num_workers": workers}
        config = config_for(
            setting, manifest, decode=decode, data=data, augment=AUGMENT, training=training
        )
        row |= run_command(setting, "finetune", config)
    losses = f"losses {row.get('first loss')} and {row.get('last loss')}"
    findings.check("finetuning comes to its end", "not measured" not in row, losses)


def _evaluate(setting: Setting, manifest: Path, decode: str) -> dict[str, object]:
    full = {"num_segments": 5, "num_crops": 3, "batch_size": 32}
    tiny = {"num_segments": 2, "num_crops": 1, "batch_size": 2}
    data = {"val": manifest, "num_workers": _workers(setting, decode)}
    evaluation = setting.pick(full, tiny)
    return _evaluating(
        config_for(setting, manifest, decode=decode, data=data, evaluation=evaluation)
    )


def _workers(setting: Setting, decode: str) -> int:
    return setting.workers if decode == "cpu" else 8


def _evaluating(config: RunConfig) -> dict[str, object]:
    """All views of all videos through a classifier, by the time from batch to batch."""
    config = with_num_classes(config)
    world = join_world(choose_device(config))
    config, _ = with_precision(config, world)
    torch.manual_seed(0)
    network = build_classifier(config.model)
    config, kernel = with_kernel(config, _shapes(config, network), world, dropped_tokens=False)
    prepare(network, config)
    moments: list[float] = []

    def advance(_done: int) -> None:
        if world.device.type == "cuda":
            torch.cuda.synchronize()
        moments.append(time.perf_counter())

    judged = judged_by(config)
    with open_views(config, judged, world) as loader:
        merged = merge_views(config, network, world, loader, judged, advance)
        skipped = loader.num_skipped
    clips = config.evaluation.batch_size
    rates = [clips / (later - earlier) for earlier, later in pairwise(moments)]
    if not rates:
        raise RuntimeError("one batch is too little to measure")
    seconds = moments[-1] - moments[0]
    return {
        "clips/s": clips * len(rates) / seconds,
        "median batch": median(rates),
        "batches": len(moments),
        "videos": len(merged.num_views),
        "skipped clips": skipped,
        "attention": kernel,
    }


def _shapes(config: RunConfig, network: Any) -> list[Any]:
    from mgm_dali.models.flops import attention_shapes

    return attention_shapes(config.model, config.evaluation.batch_size, network.grid.num_tokens)
