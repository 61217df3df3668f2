"""Steps that went wrong: left out, counted, and listed with their clips.

    RUN/bad_steps.jsonl    of each rank: step, why, loss, gradient norm, and the clips it was shown

The order of the clips and all draws are pure functions of the step: a run resumed from the
checkpoint before meets the same step again, and lists it once more. What is counted, and what a
loss is compared with, begins anew with each process.
"""

import json
import logging
import math
from collections import deque
from dataclasses import dataclass
from pathlib import Path

from torch import Tensor

from mgm_dali.errors import UserError
from mgm_dali.video.manifest import Manifest

__all__ = ["BadSteps", "Step"]

logger = logging.getLogger(__name__)

WINDOW = 100
"""Steps that a loss is compared with to be called a spike."""
FEWEST = 20
SPIKE_DEVIATIONS = 6.0
SPIKE_SHARE = 0.2
"""A spike is that many standard deviations and that share above the mean of the steps before."""


@dataclass(frozen=True)
class Step:
    """One optimiser step, as it is known once the host has waited for the device."""

    number: int
    """Steps done with it."""
    loss: float
    """Mean over the ranks."""
    own_loss: float
    grad_norm: float
    rows: list[Tensor]
    """Manifest rows of this rank's clips, for each forward pass."""
    seeds: list[Tensor]

    @property
    def is_bad(self) -> bool:
        """Loss and norm are those of all ranks, so they agree on it."""
        return not (math.isfinite(self.loss) and math.isfinite(self.grad_norm))


class BadSteps:
    """Looks at every step of a run."""

    def __init__(self, run: Path, rank: int, most_in_a_row: int, manifest: Manifest) -> None:
        self._table = run / "bad_steps.jsonl"
        self._rank, self._most, self._manifest = rank, most_in_a_row, manifest
        self._in_a_row = 0
        self._losses: deque[float] = deque(maxlen=WINDOW)

    def look(self, step: Step) -> str | None:
        """What is to be said of a step, if anything.

        Raises `UserError`, on all ranks at once, after too many bad ones in a row.
        """
        if step.is_bad:
            self._in_a_row += 1
            left_out = not math.isfinite(step.grad_norm)
            what = "left out: its gradient" if left_out else "its loss"
            self._list(step, f"{what} is no number")
            if self._in_a_row >= self._most:
                raise UserError(
                    f"step {step.number}: the loss is {step.loss:.4g}, the gradient's norm "
                    f"{step.grad_norm:.4g}; {self._in_a_row} steps in a row were no numbers "
                    f"(training.max_bad_steps). {self._table} lists their clips; the checkpoints "
                    "are intact. In a new output_dir, try a lower training.base_lr, "
                    "training.gradient_clipping=1.0 or training.precision=fp32"
                )
            return None
        self._in_a_row = 0
        spike = self._spike(step)
        self._losses.append(step.loss)
        return spike

    def _spike(self, step: Step) -> str | None:
        if len(self._losses) < FEWEST:
            return None
        mean = math.fsum(self._losses) / len(self._losses)
        variance = math.fsum((loss - mean) ** 2 for loss in self._losses) / len(self._losses)
        if step.loss <= mean + max(SPIKE_DEVIATIONS * variance**0.5, SPIKE_SHARE * abs(mean)):
            return None
        self._list(step, "a spike of the loss")
        return (
            f"step {step.number}: loss {step.loss:.4f} is a spike, the {len(self._losses)} before "
            f"have {mean:.4f} on average; its clips are listed in {self._table.name}"
        )

    def _list(self, step: Step, why: str) -> None:
        clips = [
            {"row": row, "seed": seed, "path": str(self._manifest[row].path)}
            for rows, seeds in zip(step.rows, step.seeds, strict=True)
            for row, seed in zip(rows.tolist(), seeds.tolist(), strict=True)
        ]
        entry = {
            "step": step.number,
            "rank": self._rank,
            "why": why,
            "loss": str(step.own_loss),  # JSON has no word for what is no number
            "grad_norm": str(step.grad_norm),
            "clips": clips,
        }
        try:
            with self._table.open("a", encoding="utf-8") as file:
                file.write(json.dumps(entry) + "\n")  # one write: ranks do not mix their lines
        except OSError as error:
            logger.warning("%s cannot be written (%s): %s", self._table, error, entry)
