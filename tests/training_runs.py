"""Short training runs for tests, in this process alone."""

import os
import subprocess
import sys
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import pytest

from mgm_dali.config import RunConfig
from mgm_dali.training import loop
from mgm_dali.training.metrics import read_steps

__all__ = ["LAUNCHERS", "SETTINGS", "config_for", "launched", "losses_of", "stopped_before"]

SETTINGS = (
    *("device=cpu", "data.num_workers=0", "clip.stride_frames=2", "augment.flip=false"),
    *("model.name=vit_micro", "model.num_frames=8", "model.image_size=64"),
    *("evaluation.num_segments=2", "evaluation.num_crops=1"),
    *("training.precision=fp32", "training.base_lr=0.05", "training.attention_kernel=sdpa"),
    *("training.zero_stage=1", "training.log_every_steps=1"),
)
"""Overrides for a run of a few steps, whichever way it is started."""
LAUNCHERS = {
    "torchrun": ["-m", "torch.distributed.run", "--nproc-per-node=2"],
    "deepspeed": ["-m", "deepspeed.launcher.runner", "--num_accelerators=2"],
}


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
    return [metrics["loss"] for metrics in read_steps(run / "metrics.jsonl")]


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


def launched(
    arguments: Sequence[object], seconds: float = 240, environment: Mapping[str, str] | None = None
) -> tuple[int, str]:
    """Exit status and output of a Python process that may start others."""
    environment = {
        **os.environ,
        **(environment or {}),
        "OMP_NUM_THREADS": "1",
        "DS_ACCELERATOR": "cpu",
        "PYTHONPATH": str(Path(__file__).parents[1]),
    }
    for name in ("RANK", "LOCAL_RANK", "WORLD_SIZE", "LOCAL_SIZE", "MASTER_ADDR", "MASTER_PORT"):
        environment.pop(name, None)  # other tests of this process have joined a world of one
    command = [sys.executable, *map(str, arguments)]
    done = subprocess.run(
        command,
        env=environment,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        timeout=seconds,
    )
    return done.returncode, done.stdout
