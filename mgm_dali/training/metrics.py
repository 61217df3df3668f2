"""The numbers of a run: RUN/metrics.jsonl, one object a step, and the same in RUN/tensorboard/."""

import json
from pathlib import Path

from torch.utils.tensorboard import SummaryWriter
from typing_extensions import Self

from mgm_dali.files import write_whole

__all__ = ["MetricsFile", "read_metrics"]


class MetricsFile:
    """Appends the metrics of each step; a resumed run continues behind its checkpoint's step.

    Only one rank's is `active`; the others' write nothing.
    """

    def __init__(self, folder: Path, first_step: int, *, active: bool) -> None:
        self._active = active
        if not active:
            return
        path = folder / "metrics.jsonl"
        _cut_behind(path, first_step)
        self._file = path.open("a", encoding="utf-8")
        self._board = SummaryWriter(str(folder / "tensorboard"), purge_step=first_step + 1)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        if not self._active:
            return
        self._file.close()
        self._board.close()

    def write(self, metrics: dict[str, float]) -> None:
        """The numbers of one optimiser step; `metrics["step"]` counts from 1."""
        if not self._active:
            return
        self._file.write(json.dumps(metrics) + "\n")
        self._file.flush()
        for name, value in metrics.items():
            if name != "step":
                self._board.add_scalar(f"train/{name}", value, int(metrics["step"]))


def read_metrics(path: Path) -> list[dict[str, float]]:
    """The objects of a metrics.jsonl; a line that a killed run left half-written is left out."""
    metrics = []
    for line in path.read_text(encoding="utf-8").splitlines():
        try:
            metrics.append(json.loads(line))
        except ValueError:
            continue
    return metrics


def _cut_behind(path: Path, step: int) -> None:
    """Drops the steps behind the checkpoint a run resumes from: it takes them once more."""
    if not path.exists():
        return
    kept = [line for line in read_metrics(path) if line["step"] <= step]
    write_whole(path, "".join(json.dumps(line) + "\n" for line in kept))
