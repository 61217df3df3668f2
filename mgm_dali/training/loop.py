"""The training loop that pretraining and finetuning share."""

import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import torch
from timm.utils.model_ema import ModelEmaV3
from torch import Tensor

from mgm_dali import __version__
from mgm_dali.clips.batch import ClipBatch
from mgm_dali.config import RunConfig, dump_config
from mgm_dali.errors import Stopped, UserError
from mgm_dali.files import write_whole
from mgm_dali.models import Autoencoder, Classifier, load_pretrained
from mgm_dali.pipelines.loader import ClipLoader
from mgm_dali.pipelines.share import Share, Stage
from mgm_dali.runs.checkpoint_files import (
    Position,
    checksum,
    complete_steps,
    newest_whole,
    weights_file,
)
from mgm_dali.training.checkpoint import load_checkpoint, save_checkpoint
from mgm_dali.training.computing import compiling
from mgm_dali.training.engine import Engine
from mgm_dali.training.judge import Judge
from mgm_dali.training.judging import Judgement
from mgm_dali.training.log import RunLog
from mgm_dali.training.metrics import MetricsFile
from mgm_dali.training.progress import Pending, Progress
from mgm_dali.training.run_folder import run_folder
from mgm_dali.training.schedule import cosine_schedule, peak_lr, seed_step, total_steps
from mgm_dali.training.stopping import PREEMPTED, StopRequest
from mgm_dali.training.wandb_board import why_no_wandb
from mgm_dali.training.world import World

__all__ = ["Task", "start_from", "train"]


@dataclass(frozen=True)
class Task:
    """What differs between pretraining and finetuning."""

    stage: Stage
    network: Autoencoder | Classifier
    average: ModelEmaV3 | None
    groups: list[dict[str, Any]]
    """AdamW's parameter groups."""
    loss: Callable[[Engine, ClipBatch], Tensor]
    """Loss of one forward pass, a float32 scalar."""
    needs_motion: bool
    description: list[str]
    """Lines for the head of the log: weights, network, mask."""
    judgement: Judgement
    picture: Callable[[ClipBatch], Any] | None = None
    """A picture of what the network makes of a batch's first clip: uint8 [H, W, 3]."""


def start_from(config: RunConfig, network: Autoencoder | Classifier, world: World) -> str:
    """Takes the weights of `model.init`, unless the run is resumed; what became of them."""
    if world.of_first(bool(complete_steps(config.output_dir))):
        return "those of this run's checkpoint"
    assert config.model.init is not None, "asked before"
    return str(load_pretrained(network, config.model.init))


def train(
    config: RunConfig, task: Task, world: World, ends: tuple[StopRequest, Callable[[str], None]]
) -> Path:
    """Trains to the end, from the newest checkpoint if there is one. The final weights' path.

    Raises `UserError` if too many steps have no finite loss or too many clips cannot be read, and
    `Stopped` if it was asked to end before; what was saved stays.
    """
    run, training = config.output_dir, config.training
    world.require(why_no_wandb(config) if world.is_first else None)
    global_batch = training.batch_size * training.accumulate_steps * world.size
    with ExitStack() as stack:
        changes = stack.enter_context(run_folder(run, config, world))
        found, warnings = _resumed(run, world)
        first_step = world.of_first(found[1].step if found else 0)
        share = Share(
            training.batch_size, world.rank, world.size, first_step * training.accumulate_steps
        )
        _require_judge(config, task, share)
        loader = stack.enter_context(
            ClipLoader(config, task.stage, share, needs_motion=task.needs_motion)
        )
        manifest = checksum(loader.manifest.path)
        position = Position(first_step, task.stage, world.size, global_batch, manifest)
        world.require(_why_another_run(*found, position) if found else None)
        videos_a_step = global_batch // config.augment.repeats
        steps = total_steps(training, len(loader.manifest), videos_a_step)
        engine = Engine(task.network, task.groups, config, world)
        log = stack.enter_context(RunLog(run, world.rank, steps, first_step))
        metrics = stack.enter_context(
            MetricsFile(run, first_step, active=world.is_first, config=config)
        )
        opening = [*_opening_lines(config, task, loader, world, steps), *changes, *warnings]
        for text in opening:
            log.line(text)
        metrics.text("opening", "\n".join(opening))
        if first_step:
            folder = run / "checkpoints" / f"step-{first_step}"
            for text in load_checkpoint(engine, task.average, folder):
                log.line(text)
            ranks = f", which {found[1].world_size} rank(s) wrote" if found else ""
            log.line(f"resumed behind step {first_step} from {folder}{ranks}")
        if world.is_first:
            write_whole(run / "config.yaml", dump_config(config))
        progress = Progress(config, engine, loader, (log, metrics), (first_step, steps))
        with _last_word(progress, loader):
            _Loop(config, task, engine, loader, progress, ends).run(position, steps)
    ends[0].is_saved = True
    return weights_file(run, max(first_step, steps))


def _require_judge(config: RunConfig, task: Task, share: Share) -> None:
    """Raises `UserError` if the run would not find what it is to be judged on, hours later."""
    if config.training.evaluate_every_steps is None:
        return
    if config.data.val is None:
        raise UserError(
            "training.evaluate_every_steps: there is nothing to judge on; set data.val to a "
            "manifest, or leave it out"
        )
    ClipLoader(config, "evaluate", share, needs_motion=task.needs_motion).close()


def _resumed(run: Path, world: World) -> tuple[tuple[Path, Position] | None, list[str]]:
    """The checkpoint to go on from, on the first rank; and what is to be said about others."""
    warnings: list[str] = []
    found, problem = None, None
    if world.is_first:
        try:
            found = newest_whole(run, warnings.append)
        except UserError as error:
            problem = str(error)
    world.require(problem)
    return found, warnings


@contextmanager
def _last_word(progress: Progress, loader: ClipLoader) -> Iterator[None]:
    """Whatever ends the run is left in status.json, and unreadable clips in skipped.csv."""
    try:
        yield
        progress.end("finished")
    except Stopped as stopped:
        progress.end("stopped", str(stopped))
        raise
    except BaseException as error:
        reason = "interrupted" if isinstance(error, KeyboardInterrupt) else str(error)
        progress.end("failed", reason or type(error).__name__)
        raise
    finally:
        progress.log.skipped((clip.path, clip.reason) for clip in loader.skipped)


class _Loop:
    """The steps of one run."""

    def __init__(
        self,
        config: RunConfig,
        task: Task,
        engine: Engine,
        loader: ClipLoader,
        progress: Progress,
        ends: tuple[StopRequest, Callable[[str], None]],
    ) -> None:
        self.config, self.task, self.engine = config, task, engine
        self.loader, self.progress = loader, progress
        self.stop, self._moves = ends
        self.newest: ClipBatch | None = None
        self.judge = Judge(config, task.judgement, (engine, task.average), progress, self._moves)
        training = config.training
        global_batch = training.batch_size * training.accumulate_steps * engine.world.size
        self.schedule = cosine_schedule(
            engine.parameter_groups,
            training,
            len(loader.manifest),
            global_batch // config.augment.repeats,
        )

    def run(self, position: Position, steps: int) -> None:
        """Optimiser steps from `position` on, until `steps` are done."""
        training = self.config.training
        if self.judge.was_cut_off(position.step):
            self.judge(position.step)
        batches = self.loader.endless()
        saved = position.step
        for step in range(position.step, steps):
            if self.stop.agreed():
                self._end_early(replace(position, step=step), saved)
            seed_step(self.config.seed, step, self.engine.world.rank)
            self.schedule.step_update(step)
            done = step + 1
            self.progress.add(self._step(batches, done))
            if self.task.picture and _due(training.pictures_every_steps, done):
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
            self._moves("reading clips")
            asked = time.perf_counter()
            batch = next(batches)
            step.saw(batch, time.perf_counter() - asked)
            self._moves("computing")
            with compiling("training.compile"):
                loss = self.task.loss(self.engine, batch)
                self.engine.backward(loss)
            step.norm = self.engine.step()
            step.losses.append(loss.detach())
        if self.task.average is not None:
            self.task.average.update(self.task.network)
        self.newest = batch
        return step

    def _draw(self, step: int) -> None:
        """A picture of the newest batch; its step's numbers go first."""
        self._moves("drawing")
        self.progress.report()
        assert self.task.picture is not None and self.newest is not None
        if self.engine.world.is_first or self.config.training.zero_stage == 3:
            self.progress.metrics.picture("clip", self.task.picture(self.newest), step)
        self.progress.open()

    def _save(self, position: Position) -> None:
        self._moves("saving")
        self.progress.report()
        save_checkpoint(self.engine, self.task.average, self.config, position)
        output = self.config.output_dir
        self.progress.log.line(f"step {position.step}  checkpoint and weights saved in {output}")
        self.progress.open()

    def _end_early(self, position: Position, saved: int) -> None:
        """Saves, and raises `Stopped`."""
        if position.step > saved:
            self._save(position)
        self.stop.is_saved = True
        status = PREEMPTED if self.stop.preempted else 0
        text = f"stopped behind step {position.step}: {self.stop.reason}; the same command goes on"
        self.progress.log.line(text)
        raise Stopped(text, status)


def _due(every_steps: int | None, step: int) -> bool:
    return every_steps is not None and step % every_steps == 0


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
        f"accumulated x {world.size} rank(s){of_videos}",
        f"rate       peak {peak_lr(training.base_lr, batch // repeats):.2e} = training.base_lr "
        f"{training.base_lr:g} x {batch // repeats} / 256 videos a step",
        f"length     {steps} steps = {steps * batch / epoch:.1f} epochs of {epoch} clips",
    ]


def _why_another_run(folder: Path, before: Position, now: Position) -> str | None:
    """Why what follows would not be the run that the checkpoint belongs to.

    Other ranks are no reason: with the same global batch they see the same clips.
    """
    for name in ("stage", "global_batch", "manifest"):
        then, today = getattr(before, name), getattr(now, name)
        if then != today:
            return (
                f"{folder}: was written with another {name.replace('_', ' ')} ({then}, now "
                f"{today}); resume with the same, or start a new run from its weights with "
                "model.init"
            )
    return None
