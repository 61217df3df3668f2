"""Short training runs for tests, in this process alone."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from mgm_dali.config import RunConfig
from mgm_dali.training import loop
from mgm_dali.training.metrics import read_metrics

__all__ = ["config_for", "losses_of", "stopped_before"]


def config_for(manifest: Path, output: Path, **training: Any) -> RunConfig:
    """A run of a few steps on the small videos."""
    defaults = {
        "max_steps": 6,
        "batch_size": 4,
        "precision": "fp32",
        "attention_kernel": "sdpa",
        "zero_stage": 1,
        "base_lr": 0.05,
        "checkpoint_every_steps": 2,
        "log_every_steps": 1,
    }
    return RunConfig.model_validate(
        {
            "output_dir": output,
            "device": "cpu",
            "data": {"train": manifest, "val": manifest, "num_workers": 0},
            "clip": {"stride_frames": 2},
            "augment": {"flip": False},
            "model": {"name": "vit_micro", "num_frames": 8, "image_size": 64, "decoder_depth": 1},
            "training": {**defaults, **training},
            "evaluation": {"num_segments": 2, "num_crops": 1, "batch_size": 5},
        }
    )


def losses_of(run: Path) -> list[float]:
    """The loss of every step."""
    return [metrics["loss"] for metrics in read_metrics(run / "metrics.jsonl")]


def stopped_before(
    step_to_stop: int, monkeypatch: pytest.MonkeyPatch, start: Callable[[], object]
) -> None:
    """Starts a run and interrupts it before one of its steps."""
    original = loop.seed_step

    def stop(seed: int, step: int, rank: int) -> None:
        if step == step_to_stop:
            raise KeyboardInterrupt
        original(seed, step, rank)

    monkeypatch.setattr(loop, "seed_step", stop)
    with pytest.raises(KeyboardInterrupt):
        start()
    monkeypatch.undo()
