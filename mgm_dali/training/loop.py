"""The training loop that pretraining and finetuning share."""

import dataclasses
import math
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from mgm_dali import __version__
from mgm_dali.clips.batch import ClipBatch
from mgm_dali.config import RunConfig
from mgm_dali.errors import UserError
from mgm_dali.models import Autoencoder, Classifier, load_pretrained
from mgm_dali.pipelines.loader import ClipLoader
from mgm_dali.pipelines.share import Share, Stage
from mgm_dali.training.checkpoint import (
    Position,
    checksum,
    complete_steps,
    find_checkpoint,
    save_checkpoint,
)
from mgm_dali.training.computing import compiling
from mgm_dali.training.engine import Engine, World
from mgm_dali.training.log import RunLog
from mgm_dali.training.metrics import MetricsFile
from mgm_dali.training.run_folder import run_folder
from mgm_dali.training.schedule import cosine_schedule, peak_lr, seed_step, total_steps

__all__ = ["Task", "start_from", "train"]


@dataclass(frozen=True)
class Task:
    """What differs between pretraining and finetuning."""

    stage: Stage
    network: Autoencoder | Classifier
    groups: list[dict[str, Any]]
    """AdamW's parameter groups."""
    loss: Callable[[Engine, ClipBatch], Tensor]
    """Loss of one forward pass, a float32 scalar."""
    needs_motion: bool
    description: list[str]
    """Lines for the head of the log: weights, network, mask."""


def start_from(config: RunConfig, network: Autoencoder | Classifier) -> str:
    """Takes the weights of `model.init`, unless the run is resumed; what became of them."""
    if complete_steps(config.output_dir):
        return "those of this run's checkpoint"
    assert config.model.init is not None, "asked before"
    return str(load_pretrained(network, config.model.init))


def train(config: RunConfig, task: Task, world: World) -> Path:
    """Trains to the end, from the newest checkpoint if there is one. The final weights' path.

    Raises `UserError` if the loss stops being a number or too many clips cannot be read; what was
    saved before stays.
    """
    run, training = config.output_dir, config.training
    global_batch = training.batch_size * training.accumulate_steps * world.size
    with ExitStack() as stack:
        stack.enter_context(run_folder(run, config, world))
        warnings: list[str] = []
        found = find_checkpoint(run, warnings.append)
        first_step = found[1].step if found else 0
        first_forward = first_step * training.accumulate_steps
        share = Share(training.batch_size, world.rank, world.size, first_forward)
        loader = stack.enter_context(
            ClipLoader(config, task.stage, share, needs_motion=task.needs_motion)
        )
        manifest = checksum(loader.manifest.path)
        position = Position(first_step, task.stage, world.size, global_batch, manifest)
        if found:
            _require_same(found[0], found[1], position)
        videos_a_step = global_batch // config.augment.repeats
        steps = total_steps(training, len(loader.manifest), videos_a_step)
        engine = Engine(task.network, task.groups, config, world)
        log = stack.enter_context(RunLog(run, world.rank, steps, first_step))
        metrics = stack.enter_context(MetricsFile(run, first_step, active=world.is_first))
        for text in [*_opening_lines(config, task, loader, world, steps), *warnings]:
            log.line(text)
        if found:
            engine.load(found[0])
            log.line(f"resumed behind step {first_step} from {found[0]}")
        try:
            _Loop(config, task, engine, loader, log, metrics).run(position, steps)
        finally:
            log.skipped((clip.path, clip.reason) for clip in loader.skipped)
    return run / "weights" / f"step-{max(first_step, steps)}.safetensors"


class _Loop:
    """The steps of one run. Losses stay on the device until a line of the log is due."""

    def __init__(
        self,
        config: RunConfig,
        task: Task,
        engine: Engine,
        loader: ClipLoader,
        log: RunLog,
        metrics: MetricsFile,
    ) -> None:
        self.config, self.task, self.engine = config, task, engine
        self.loader, self.log, self.metrics = loader, log, metrics
        self.world = engine.world
        training = config.training
        self.global_batch = training.batch_size * training.accumulate_steps * self.world.size
        videos_a_step = self.global_batch // config.augment.repeats
        self.schedule = cosine_schedule(
            engine.parameter_groups, training, len(loader.manifest), videos_a_step
        )
        self.rows: list[Tensor] = []
        """Manifest rows of the newest clips, to name them if something goes wrong."""
        self._open_window()

    def _open_window(self) -> None:
        """Starts to measure afresh, after a line of the log or a checkpoint."""
        self.pending: list[tuple[int, Tensor, float | Tensor, float]] = []
        """(step, loss, gradient norm, learning rate) not yet written."""
        self.without_motion: list[Tensor] = []
        """Clips of each forward pass in which no frame has vectors: their masks are simulated."""
        self.started = time.perf_counter()
        self.waited_seconds = 0.0

    def run(self, position: Position, steps: int) -> None:
        """Optimiser steps from `position` on, until `steps` are done."""
        training = self.config.training
        batches = self.loader.endless()
        for step in range(position.step, steps):
            seed_step(self.config.seed, step, self.world.rank)
            self.schedule.step_update(step)
            lr = max(group["lr"] for group in self.engine.parameter_groups)
            loss, norm = self._step(batches)
            done = step + 1
            self.pending.append((done, loss, norm, lr))
            saving = done % training.checkpoint_every_steps == 0 or done == steps
            if saving or done % training.log_every_steps == 0:
                self._report()
            if saving:
                self._save(dataclasses.replace(position, step=done))

    def _step(self, batches: Iterator[ClipBatch]) -> tuple[Tensor, float | Tensor]:
        """All forward passes of one optimiser step: this rank's mean loss, the gradient norm."""
        losses = []
        norm: float | Tensor = 0.0
        self.rows = []
        for _ in range(self.config.training.accumulate_steps):
            asked = time.perf_counter()
            batch = next(batches)
            self.waited_seconds += time.perf_counter() - asked
            self.rows.append(batch.index)
            if self.task.needs_motion:
                self.without_motion.append((~batch.motion_valid.any(1)).sum())
            with compiling("training.compile"):
                loss = self.task.loss(self.engine, batch)
                self.engine.backward(loss)
            norm = self.engine.step()
            losses.append(loss.detach())
        return torch.stack(losses).mean(), norm

    def _report(self) -> None:
        """Writes what is pending; the one place where the host waits for the device."""
        self.world.require(self.loader.problem)
        losses = self.world.sum(torch.stack([loss for _, loss, _, _ in self.pending]))
        losses = losses / self.world.size
        counts = self._counts()
        self.log.skipped((clip.path, clip.reason) for clip in self.loader.skipped)
        seconds = time.perf_counter() - self.started
        speed = len(self.pending) * self.global_batch / seconds
        wait = self.waited_seconds / seconds
        for (step, _, norm, lr), loss in zip(self.pending, losses.tolist(), strict=True):
            self.metrics.write(
                {
                    "step": step,
                    "epoch": step * self.global_batch / self.loader.clips_per_epoch,
                    "loss": loss,
                    "lr": lr,
                    "grad_norm": float(norm),
                    "clips_per_second": speed,
                    "data_wait_share": wait,
                    **counts,
                }
            )
            self._require_finite(step, loss)
        share = counts.get("no_motion_share", 0)
        still = f"  without motion {share:.0%}" if share else ""
        if lost := counts["skipped_steps"]:
            still += f"  steps skipped {lost:.0f}"
        self.log.advance(step, f"loss {losses.mean():.4f}")
        self.log.line(
            f"step {step}  loss {losses.mean():.4f}  lr {lr:.2e}  {speed:.1f} clips/s  "
            f"waiting for data {wait:.0%}  skipped {counts['skipped_clips']}{still}"
        )
        self._open_window()

    def _counts(self) -> dict[str, float]:
        """What went otherwise than asked for, on all ranks; where masks follow motion, also the
        share of the newest clips that have none."""
        counted = [self.loader.num_skipped, self.loader.restarts, 0]
        counts = torch.tensor(counted, device=self.world.device)
        counts[-1] = sum(self.without_motion)
        skipped, restarts, without_motion = (int(count) for count in self.world.sum(counts))
        named: dict[str, float] = {
            "skipped_clips": skipped,
            "loader_restarts": restarts,
            "skipped_steps": self.engine.skipped_steps,
        }
        if self.task.needs_motion:
            clips = len(self.pending) * self.global_batch
            named["no_motion_share"] = without_motion / clips
        return named

    def _require_finite(self, step: int, loss: float) -> None:
        if math.isfinite(loss):
            return
        rows = torch.cat(self.rows).tolist()
        raise UserError(
            f"step {step}: the loss is {loss}; the last checkpoint is intact. The newest clips of "
            f"this rank are rows {rows} of {self.loader.manifest.path}. In a new output_dir, try a "
            "lower training.base_lr, training.gradient_clipping=1.0 or training.precision=fp32"
        )

    def _save(self, position: Position) -> None:
        save_checkpoint(self.engine, self.config, position)
        output = self.config.output_dir
        self.log.line(f"step {position.step}  checkpoint and weights saved in {output}")
        self._open_window()  # a save is not training time


def _opening_lines(
    config: RunConfig, task: Task, loader: ClipLoader, world: World, steps: int
) -> list[str]:
    """What runs where and why."""
    training, place, videos = config.training, loader.placement, len(loader.manifest)
    epoch, repeats = loader.clips_per_epoch, config.augment.repeats
    batch = training.batch_size * training.accumulate_steps * world.size
    of_videos = f", {repeats} of each of {batch // repeats} videos" if repeats > 1 else ""
    device = torch.cuda.get_device_name(place.device) if place.device.type == "cuda" else "CPU"
    return [
        f"mgm-dali {__version__}  {task.stage}  ->  {config.output_dir}",
        f"device     {device}; {world.size} rank(s), ZeRO stage {training.zero_stage}",
        f"data       {videos} videos of {loader.manifest.path}; {place.reason}; "
        f"{config.data.num_workers} worker process(es) a rank",
        *task.description,
        f"batch      {batch} clips a step = {training.batch_size} x {training.accumulate_steps} "
        f"accumulated x {world.size} rank(s){of_videos}; peak lr "
        f"{peak_lr(training.base_lr, batch // repeats):.2e}",
        f"length     {steps} steps = {steps * batch / epoch:.1f} epochs of {epoch} clips",
    ]


def _require_same(folder: Path, before: Position, now: Position) -> None:
    """Raises `UserError` if what follows would not be the run that the checkpoint belongs to."""
    for field in dataclasses.fields(Position):
        then, today = getattr(before, field.name), getattr(now, field.name)
        if then != today:
            raise UserError(
                f"{folder}: was written with another {field.name.replace('_', ' ')} ({then}, now "
                f"{today}); resume with the same, or start a new run from its weights with "
                "model.init"
            )
