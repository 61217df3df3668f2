"""The training loop that pretraining and finetuning share."""

import os
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from timm.scheduler.cosine_lr import CosineLRScheduler
from timm.utils.model_ema import ModelEmaV3
from torch import Tensor

from mgm_dali.clips.batch import ClipBatch
from mgm_dali.config import RunConfig, dump_config
from mgm_dali.errors import Stopped
from mgm_dali.files import write_whole
from mgm_dali.models import Autoencoder, Classifier
from mgm_dali.pipelines.loader import ClipLoader
from mgm_dali.pipelines.share import Share, Stage
from mgm_dali.runs.checkpoint_files import Position, checksum, weights_file
from mgm_dali.training.checkpoint import load_checkpoint, save_checkpoint
from mgm_dali.training.computing import compiling
from mgm_dali.training.engine import Engine, Network
from mgm_dali.training.judge import Judge, require_judged_data
from mgm_dali.training.judging import Judgement
from mgm_dali.training.opening import opening_lines
from mgm_dali.training.progress import Pending, Progress
from mgm_dali.training.resuming import find_start, why_another_run
from mgm_dali.training.run_folder import run_folder
from mgm_dali.training.schedule import cosine_schedule, is_due, seed_step, total_steps
from mgm_dali.training.stopping import PREEMPTED
from mgm_dali.training.supervision import Supervision
from mgm_dali.training.wandb_board import why_no_wandb
from mgm_dali.training.world import World
from mgm_dali.video.manifest import Manifest

__all__ = ["Task", "train"]


@dataclass(frozen=True)
class Task:
    """What differs between pretraining and finetuning."""

    stage: Stage
    network: Autoencoder | Classifier
    average: ModelEmaV3 | None
    groups: list[dict[str, Any]]
    """AdamW's parameter groups."""
    loss: Callable[[Network, ClipBatch], Tensor]
    """Loss of one forward pass, a float32 scalar."""
    needs_motion: bool
    description: list[str]
    """Lines for the head of the log: weights, network, mask."""
    judgement: Judgement
    manifest: Manifest | None = None
    """Takes the place of `data.train`."""
    files: Sequence[Path] = ()
    """On which the samples depend besides: a run goes on with the same alone."""
    picture: Callable[[ClipBatch], Any] | None = None
    """A picture of what the network makes of a batch's first clip: uint8 [H, W, 3]."""


def train(config: RunConfig, task: Task, world: World, supervision: Supervision) -> Path:
    """Trains to the end, from the newest checkpoint if there is one. The final weights' path.

    Raises `UserError` if too many steps have no finite loss or too many clips cannot be read, and
    `Stopped` if it was asked to end before; what was saved stays.
    """
    run, training = config.output_dir, config.training
    world.require(why_no_wandb(config) if world.is_first else None)
    global_batch = training.batch_size * training.accumulate_steps * world.size
    videos_a_step = global_batch // config.augment.repeats
    with ExitStack() as stack:
        changes = stack.enter_context(run_folder(run, config, world))
        start = find_start(run, world)
        forwards = start.step * training.accumulate_steps
        share = Share(training.batch_size, world.rank, world.size, forwards)
        require_judged_data(config, share, needs_motion=task.needs_motion)
        loader = stack.enter_context(
            ClipLoader(
                config,
                task.stage,
                share,
                needs_motion=task.needs_motion,
                manifest=task.manifest,
            )
        )
        lists = [loader.manifest.csv_checksum(), *map(checksum, task.files)]
        manifest = "+".join(lists)
        videos = len(loader.manifest)
        world.require(_why_another_list(manifest, loader, world))
        position = Position(start.step, task.stage, world.size, global_batch, manifest)
        world.require(why_another_run(run, start.position, position))
        steps = total_steps(training, videos, videos_a_step)
        engine = Engine(task.network, task.groups, config, world, task.average)
        schedule = cosine_schedule(engine.parameter_groups, training, videos, videos_a_step)
        progress = stack.enter_context(Progress(config, engine, loader, start.step, steps))
        opening = opening_lines(config, task.description, loader, world, steps)
        progress.say_opening([*opening, *changes, *start.warnings])
        if start.position:
            progress.say(load_checkpoint(engine, config, start.step))
            progress.say([start.in_words(run)])
        if world.is_first:
            write_whole(run / "config.yaml", dump_config(config))
        judge = Judge(config, task.judgement, engine, progress, supervision.doing)
        loop = _Loop(config, task, engine, loader, schedule, progress, judge, supervision)
        loop.run(position, steps)
    supervision.stop.is_saved = True
    return weights_file(run, max(start.step, steps))


def _why_another_list(manifest: str, loader: ClipLoader, world: World) -> str | None:
    """Machines with lists of their own would train on some videos twice, on others never."""
    if manifest == world.text_of_first(manifest):
        return None
    return (
        f"{loader.manifest.path}: on {os.uname().nodename} this list of videos, or what is learned "
        "of them, is another than on the machine of rank 0; give all machines the same"
    )


@dataclass
class _Loop:
    """The steps of one run."""

    config: RunConfig
    task: Task
    engine: Engine
    loader: ClipLoader
    schedule: CosineLRScheduler
    progress: Progress
    judge: Judge
    supervision: Supervision
    newest: ClipBatch | None = None

    def run(self, position: Position, steps: int) -> None:
        """Optimiser steps from `position` on, until `steps` are done."""
        training = self.config.training
        if self.judge.was_cut_off(position.step):
            self.judge(position.step)
        batches = self.loader.endless()
        saved = position.step
        for step in range(position.step, steps):
            if self.supervision.stop.agreed():
                self._end_early(replace(position, step=step), saved)
            seed_step(self.config.seed, step, self.engine.world.rank)
            self.schedule.step_update(step)
            done = step + 1
            self.progress.add(self._step(batches, done))
            if self.task.picture and is_due(training.pictures_every_steps, done):
                self._draw(done)
            judging = self.judge.is_due(done)
            if judging or done % training.checkpoint_every_steps == 0 or done == steps:
                self._save(replace(position, step=done))
                saved = done
            if judging:
                self.judge(done)

    def _step(self, batches: Iterator[ClipBatch], number: int) -> Pending:
        """All forward passes of one optimiser step."""
        lr = max(group["lr"] for group in self.engine.parameter_groups)
        step = Pending(number, lr)
        for _ in range(self.config.training.accumulate_steps):
            self.supervision.doing("reading clips")
            asked = time.perf_counter()
            batch = next(batches)
            step.saw(batch, time.perf_counter() - asked)
            self.supervision.doing("computing")
            with compiling("training.compile"):
                loss = self.task.loss(self.engine, batch)
                self.engine.backward(loss)
            step.norm = self.engine.step()
            step.losses.append(loss.detach())
        self.newest = batch
        return step

    def _draw(self, step: int) -> None:
        """A picture of the newest batch; its step's numbers go first."""
        self.supervision.doing("drawing")
        self.progress.report()
        assert self.task.picture is not None and self.newest is not None
        if self.engine.world.is_first or self.config.training.zero_stage == 3:
            self.progress.metrics.picture("clip", self.task.picture(self.newest), step)
        self.progress.open()

    def _save(self, position: Position) -> None:
        self.supervision.doing("saving")
        self.progress.report()
        save_checkpoint(self.engine, self.config, position)
        output = self.config.output_dir
        self.progress.log.line(f"step {position.step}  checkpoint and weights saved in {output}")
        self.progress.open()

    def _end_early(self, position: Position, saved: int) -> None:
        """Saves, and raises `Stopped`."""
        if position.step > saved:
            self._save(position)
        stop = self.supervision.stop
        stop.is_saved = True
        status = PREEMPTED if stop.preempted else 0
        text = f"stopped behind step {position.step}: {stop.reason}; the same command goes on"
        self.progress.log.line(text)
        raise Stopped(text, status)
