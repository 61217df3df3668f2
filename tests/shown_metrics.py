"""The numbers of made-up steps, and what became of them on disk, on TensorBoard and in the log."""

from pathlib import Path

import pytest
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

from mgm_dali.training.metrics import read_metrics

__all__ = ["events_of", "numbers", "shown", "steps_of", "warned"]


def numbers(step: int) -> dict[str, float]:
    return {"step": step, "loss": 1 / step, "lr": 0.25, "val/loss": 2.0 * step}


def events_of(run: Path) -> EventAccumulator:
    """What TensorBoard itself reads, all of it."""
    sizes = {"scalars": 0, "images": 0, "tensors": 0}
    return EventAccumulator(str(run / "tensorboard"), size_guidance=sizes).Reload()


def shown(run: Path, tag: str) -> list[tuple[int, float]]:
    return [(event.step, event.value) for event in events_of(run).Scalars(tag)]


def steps_of(run: Path) -> list[float]:
    return [line["step"] for line in read_metrics(run / "metrics.jsonl")]


def warned(caplog: pytest.LogCaptureFixture, part: str) -> int:
    """How many lines of the log say so."""
    return sum(part in record.getMessage() for record in caplog.records)
