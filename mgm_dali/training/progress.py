"""What a run says of itself every few steps: a line, metrics.jsonl, TensorBoard, status.json.

Losses stay on the device until then; this is the one place where the host waits for it.
"""

import resource
import time
from collections.abc import Iterable
from contextlib import ExitStack
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor
from typing_extensions import Self

from mgm_dali.clips.batch import ClipBatch
from mgm_dali.config import RunConfig
from mgm_dali.errors import Stopped
from mgm_dali.in_words import span
from mgm_dali.pipelines.loader import ClipLoader
from mgm_dali.runs.status import RunStatus, write_status
from mgm_dali.training.bad_steps import BadSteps, Step
from mgm_dali.training.engine import Engine
from mgm_dali.training.log import RunLog
from mgm_dali.training.metrics import MetricsFile

__all__ = ["Pending", "Progress"]

SIZED_STEP = 10
"""Behind so many steps of a process its memory and speed are said: a mis-sized run stops early."""


@dataclass
class Pending:
    """One optimiser step whose numbers may still be on their way."""

    number: int
    lr: float
    losses: list[Tensor] = field(default_factory=list)
    """Of each forward pass, this rank's."""
    norm: float | Tensor = 0.0
    rows: list[Tensor] = field(default_factory=list)
    seeds: list[Tensor] = field(default_factory=list)
    without_motion: list[Tensor] = field(default_factory=list)
    """Clips of each forward pass in which no frame has vectors: their masks are simulated."""
    waited_seconds: float = 0.0

    def saw(self, batch: ClipBatch, waited_seconds: float) -> None:
        """Notes the clips of a forward pass, and how long they took to come."""
        self.rows.append(batch.index)
        self.seeds.append(batch.seed)
        self.without_motion.append((~batch.motion_valid.any(1)).sum())
        self.waited_seconds += waited_seconds


class Progress:
    """The account of one process; all ranks keep one, the first one's is seen.

    Leaving it writes the last word of the run into status.json: `finished`, `stopped` or `failed`.
    """

    def __init__(
        self, config: RunConfig, engine: Engine, loader: ClipLoader, first_step: int, steps: int
    ) -> None:
        """`first_step` lie behind when the process begins, of `steps` in the whole run."""
        run, world = config.output_dir, engine.world
        self._config, self._engine, self._loader = config, engine, loader
        self._world, self._first, self._steps = world, first_step, steps
        self.log = RunLog(run, world.rank, steps, first_step)
        self._bad = BadSteps(run, world.rank, config.training.max_bad_steps, loader.manifest)
        self._status = RunStatus(loader.stage, "training", first_step, steps)
        self._sized_from: float | None = None
        self.open()

    def __enter__(self) -> Self:
        active, run = self._world.is_first, self._config.output_dir
        with ExitStack() as stack:
            stack.enter_context(self.log)
            metrics = MetricsFile(run, self._first, active=active, config=self._config)
            self.metrics = stack.enter_context(metrics)
            self._outputs = stack.pop_all()
        self._write_status()
        return self

    def __exit__(self, kind: type[BaseException] | None, error: Any, trace: Any) -> None:
        self._end(error)
        self._say_skipped()
        self._outputs.__exit__(kind, error, trace)

    def say(self, lines: Iterable[str]) -> None:
        """Lines for the log."""
        for line in lines:
            self.log.line(line)

    def say_opening(self, lines: list[str]) -> None:
        """Lines for the log that are also shown with the run's numbers."""
        self.say(lines)
        self.metrics.text("opening", "\n".join(lines))

    def open(self) -> None:
        """Starts to measure afresh: what lay between is not training time."""
        self._pending: list[Pending] = []
        self._started = time.perf_counter()

    def add(self, step: Pending) -> None:
        """Takes a step's numbers, and says them if a line is due."""
        self._pending.append(step)
        sized = step.number == self._first + SIZED_STEP
        if sized or step.number % self._config.training.log_every_steps == 0:
            self.report()
        if sized:
            self._say_size()
        if self._sized_from is None:
            self._sized_from = time.perf_counter()  # a first step may compile, and warms up

    def report(self) -> None:
        """Writes what is pending. All ranks must call it.

        Raises `UserError`, on all of them, if the loader or too many bad steps end the run.
        """
        if not self._pending:
            return
        self._world.require(self._loader.problem)
        own = torch.stack([torch.stack(step.losses).mean() for step in self._pending])
        losses = self._world.sum(own.clone()) / self._world.size
        counts = self._counts()
        self._say_skipped()
        seconds = time.perf_counter() - self._started
        batch = self._loader.share.global_batch * self._config.training.accumulate_steps
        speed = len(self._pending) * batch / seconds
        wait = sum(step.waited_seconds for step in self._pending) / seconds
        for step, loss, own_loss in zip(self._pending, losses.tolist(), own.tolist(), strict=True):
            norm = float(step.norm)
            self.metrics.write(
                {
                    "step": step.number,
                    "epoch": step.number * batch / self._loader.clips_per_epoch,
                    "loss": loss,
                    "lr": step.lr,
                    "grad_norm": norm,
                    "clips_per_second": speed,
                    "data_wait_share": wait,
                    **counts,
                }
            )
            known = Step(step.number, loss, own_loss, norm, step.rows, step.seeds)
            if said := self._bad.look(known):
                self.log.line(said)
        eta = (self._steps - step.number) * seconds / len(self._pending)
        mean = float(losses.mean())
        self._status = RunStatus(
            self._loader.stage, "training", step.number, self._steps, mean, speed, wait, eta
        )
        self._write_status()
        self._say(mean, step.lr, counts)
        self.open()

    def _end(self, error: BaseException | None) -> None:
        state = "stopped" if isinstance(error, Stopped) else "failed" if error else "finished"
        reason = None
        if isinstance(error, KeyboardInterrupt):
            reason = "interrupted"
        elif error:
            reason = str(error) or type(error).__name__
        ended = {"state": state, "reason": reason, "eta_seconds": None, "updated": time.time()}
        self._status = RunStatus(**{**vars(self._status), **ended})
        self._write_status()

    def _say(self, loss: float, lr: float, counts: dict[str, float]) -> None:
        now = self._status
        assert now.eta_seconds is not None
        text = (
            f"step {now.step}  loss {loss:.4f}  lr {lr:.2e}  {now.clips_per_second:.1f} clips/s  "
            f"waiting for data {now.data_wait_share:.0%}  skipped {counts['skipped_clips']}"
        )
        if share := counts.get("no_motion_share", 0):
            text += f"  without motion {share:.0%}"
        if lost := counts["skipped_steps"]:
            text += f"  steps skipped {lost:.0f}"
        if now.step < now.steps:
            text += f"  {span(now.eta_seconds)} to go"
        self.log.advance(now.step, f"loss {loss:.4f}")
        self.log.line(text)

    def _say_size(self) -> None:
        assert self._sized_from is not None
        seconds = (time.perf_counter() - self._sized_from) / (SIZED_STEP - 1)
        whole = span(seconds * (self._steps - self._first))
        device = self._world.device
        if device.type == "cuda":
            peak, limit = torch.cuda.max_memory_reserved(device), torch.cuda.mem_get_info(device)[1]
            memory = f"{peak / 2**30:.1f} of the device's {limit / 2**30:.1f} GiB"
        else:
            peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024
            memory = f"{peak / 2**30:.1f} GiB"
        self.log.line(
            f"size       a step takes {seconds:.2f} s, the rest of the run {whole}; at its highest "
            f"this process held {memory}"
        )

    def _counts(self) -> dict[str, float]:
        """What went otherwise than asked for, on all ranks; where masks follow motion, also the
        share of the newest clips that have none."""
        still = sum(torch.stack(step.without_motion).sum() for step in self._pending)
        counted = [self._loader.num_skipped, self._loader.restarts, 0]
        counts = torch.tensor(counted, device=self._world.device)
        counts[-1] = still
        skipped, restarts, without_motion = (int(count) for count in self._world.sum(counts))
        named: dict[str, float] = {
            "skipped_clips": skipped,
            "loader_restarts": restarts,
            "skipped_steps": self._engine.skipped_steps,
        }
        if self._loader.needs_motion:
            accumulated = self._config.training.accumulate_steps
            clips = len(self._pending) * self._loader.share.global_batch * accumulated
            named["no_motion_share"] = without_motion / clips
        return named

    def _say_skipped(self) -> None:
        self.log.skipped((clip.path, clip.reason) for clip in self._loader.skipped)

    def _write_status(self) -> None:
        if self._world.is_first:
            write_status(self._config.output_dir, self._status)
