"""The numbers of a run: RUN/metrics.jsonl, one object a step, and the boards that people watch."""

import json
import logging
from collections.abc import Callable
from pathlib import Path
from typing import Any, Protocol

import numpy as np
import torch
from numpy.typing import NDArray
from typing_extensions import Self

from mgm_dali.config import RunConfig, dump_config
from mgm_dali.files import append_whole, read_whole, write_whole
from mgm_dali.training.tensor_board import TensorBoard
from mgm_dali.training.wandb_board import WandbBoard

__all__ = ["Board", "MetricsFile", "read_metrics", "read_steps"]

_LOGGER = logging.getLogger(__name__)


class Board(Protocol):
    """Where a run is watched. It may fail in any way: the run goes on."""

    name: str
    """What people call it."""

    def scalars(self, values: dict[str, float], step: int) -> None:
        """Numbers by their tag, such as `train/loss`."""

    def picture(self, tag: str, image: NDArray[np.uint8], step: int) -> None:
        """uint8 `[H, W, 3]`."""

    def text(self, tag: str, value: str, step: int) -> None:
        """Lines to be shown as they are."""

    def close(self, *, failed: bool) -> None:
        """Sends what is left; `failed` tells how the run ended."""


class MetricsFile:
    """Appends the metrics of each step; a resumed run continues behind its checkpoint's step.

    Steps behind the checkpoint are taken once more: metrics.jsonl is cut there, TensorBoard is told
    to forget them, and Weights & Biases, which cannot forget, keeps the first of the two.

    Only one rank's is `active`; the others' write nothing. Nothing here ends a run. Lines that
    cannot be written wait in memory until they can be; what a board does not take is lost to it.
    Either is said once, and counted.
    """

    def __init__(
        self, folder: Path, first_step: int, *, active: bool, config: RunConfig | None = None
    ) -> None:
        """`config` is shown on the boards, and says which there are besides TensorBoard."""
        self._active, self._first_step = active, first_step
        self._boards: list[Board] = []
        self._refused: dict[str, int] = {}
        """How often each board has failed, by its name."""
        self._waiting: list[str] = []
        """Lines that are not yet in metrics.jsonl."""
        self._path = folder / "metrics.jsonl"
        if not active:
            return
        _cut_behind(self._path, first_step)
        self._boards.append(TensorBoard(folder / "tensorboard", first_step))
        if config is not None:
            self.text("config", dump_config(config))  # W&B is given its values, below
            if config.training.wandb_project is not None:
                self._boards.append(WandbBoard(folder, first_step, config))

    def __enter__(self) -> Self:
        return self

    def __exit__(self, kind: object, *_: object) -> None:
        self._show(lambda board: board.close(failed=kind is not None))
        if self._waiting:
            self._append()
        if self._waiting:
            _LOGGER.warning("%s: lacks its last %d line(s)", self._path, len(self._waiting))
        for name, times in self._refused.items():
            _LOGGER.warning("%s: lacks %d entries, which it could not take", name, times)

    def write(self, metrics: dict[str, float]) -> None:
        """The numbers of one optimiser step; `metrics["step"]` counts from 1.

        On boards a name without a slash is one of training: `loss` is `train/loss` there.
        """
        if not self._active:
            return
        self._waiting.append(json.dumps(metrics) + "\n")
        self._append()
        values = {_tag(name): value for name, value in metrics.items() if name != "step"}
        self._show(lambda board: board.scalars(values, int(metrics["step"])))

    def picture(self, name: str, image: NDArray[np.uint8] | torch.Tensor, step: int) -> None:
        """Shows a picture, uint8 `[H, W, 3]` on any device. The step's numbers come first.

        Weights & Biases takes no numbers of steps before the newest that it has seen.
        """
        pixels: Any = image.cpu().numpy() if isinstance(image, torch.Tensor) else image
        if pixels.dtype != np.uint8 or pixels.ndim != 3 or pixels.shape[2] != 3:
            raise ValueError(f"expected uint8 [H, W, 3], found {pixels.dtype} {pixels.shape}")
        self._show(lambda board: board.picture(_tag(name), pixels, step))

    def text(self, name: str, value: str) -> None:
        """Shows lines about the whole run, as they are."""
        self._show(lambda board: board.text(name, value, self._first_step))

    def _append(self) -> None:
        try:
            append_whole(self._path, "".join(self._waiting).encode())
        except OSError as error:
            if len(self._waiting) == 1:
                _LOGGER.warning(
                    "%s: cannot be written (%s); the run goes on, and its numbers wait in memory",
                    self._path,
                    error.strerror or error,
                )
            return
        if len(self._waiting) > 1:
            _LOGGER.warning("%s: is written again, %d lines late", self._path, len(self._waiting))
        self._waiting.clear()

    def _show(self, show: Callable[[Board], None]) -> None:
        for board in self._boards:
            try:
                show(board)
            except Exception as error:  # whatever a library for looking at runs may raise
                if board.name not in self._refused:
                    _LOGGER.warning("%s: %s; the run goes on", board.name, error)
                self._refused[board.name] = self._refused.get(board.name, 0) + 1


def read_metrics(path: Path) -> list[dict[str, float]]:
    """The objects of a metrics.jsonl; a line that a killed run left half-written is left out."""
    metrics = []
    for line in read_whole(path).decode(errors="replace").splitlines():
        try:
            found = json.loads(line)
        except (ValueError, RecursionError):
            continue
        if isinstance(found, dict) and isinstance(found.get("step"), int | float):
            metrics.append(found)
    return metrics


def read_steps(path: Path) -> list[dict[str, float]]:
    """The objects of a metrics.jsonl that are training steps, not judgements on `data.val`."""
    return [metrics for metrics in read_metrics(path) if "loss" in metrics]


def _cut_behind(path: Path, step: int) -> None:
    """Drops the steps behind the checkpoint a run resumes from: it takes them once more."""
    if not path.exists():
        return
    kept = [line for line in read_metrics(path) if line["step"] <= step]
    write_whole(path, "".join(json.dumps(line) + "\n" for line in kept))


def _tag(name: str) -> str:
    return name if "/" in name else f"train/{name}"
