"""The profile of a run: its parts alone, the whole together, and what bounds it."""

import math
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import torch

from mgm_dali.clips.batch import ClipBatch
from mgm_dali.config import RunConfig
from mgm_dali.pipelines.feed import ClipFeed
from mgm_dali.pipelines.loader import ClipLoader
from mgm_dali.pipelines.placement import Placement, choose_device
from mgm_dali.pipelines.share import Share, Stage
from mgm_dali.profiling.advice import Advice, advise, in_a_sentence
from mgm_dali.profiling.clocks import spent_by
from mgm_dali.profiling.computing import Computing, first_clips, measure_computing, take_step
from mgm_dali.profiling.costs import Bound, Costs, Machine, find_bound, limits
from mgm_dali.profiling.feeding import Feeding, Graph, measure_graph, measure_loader
from mgm_dali.profiling.feeds import RememberingFeed, TracedFeed
from mgm_dali.profiling.machine import cores_of_a_rank
from mgm_dali.profiling.prepared import Prepared, read_prepared
from mgm_dali.profiling.reading import Reading, measure_reading
from mgm_dali.profiling.summing import costs_of, facts_of, train_gflops
from mgm_dali.profiling.together import LEAST_STEPS, Together, plan_steps, run_together
from mgm_dali.profiling.trace import Trace, traced_steps
from mgm_dali.training.engine import Engine
from mgm_dali.training.finetune import prepared_finetuning
from mgm_dali.training.heartbeat import watched
from mgm_dali.training.loop import Task
from mgm_dali.training.objective_choice import objective_of
from mgm_dali.training.pretrain import prepared_pretraining
from mgm_dali.training.schedule import with_accumulation
from mgm_dali.training.world import World, join_world

__all__ = ["Profile", "prepared_task", "profile_run"]

SHARES = {"reading": 0.15, "graph": 0.15, "loader": 0.15, "computing": 0.25, "together": 0.25}
"""Of the time given."""
PREPARED_SHARE = 0.04
LONGEST_STEP_SHARE = 0.04
"""Of the time given. On a CPU larger batches are cut: a clip costs there what it costs."""
TRACED_STEPS = 3


@dataclass(frozen=True)
class Profile:
    """What was found; of this rank where nothing else is said."""

    stage: str
    device: str
    ranks: int
    settings: dict[str, Any]
    """What of the configuration decides the speed."""
    machine: Machine
    reading: Reading
    prepared: Prepared | None
    graph: Graph
    feeding: Feeding
    computing: Computing
    costs: Costs
    limits: dict[str, float]
    """Clips a second that each part would allow by itself."""
    bound: Bound
    together: Together
    trace: Trace
    clips_per_second: float
    """Of all ranks together."""
    gflops_a_clip: float
    """That a training step takes by formula: three forward passes."""
    advice: list[Advice]
    sentence: str
    """What bounds the run, and what to change."""


@dataclass(frozen=True)
class _Setup:
    """What all measurements of this rank are of."""

    config: RunConfig
    """With all that it leaves open decided, and one forward pass a step."""
    task: Task
    stage: Stage
    world: World
    seconds: float
    folder: Path
    said: Callable[[str], None]

    @property
    def batch_size(self) -> int:
        return self.config.training.batch_size

    def share(self, part: str) -> float:
        """Seconds for a part."""
        return SHARES[part] * self.seconds

    def new_folder(self, name: str) -> Path:
        (self.folder / name).mkdir()
        return self.folder / name

    def loader(
        self, make_feed: Callable[..., ClipFeed] | None = None, batch_size: int | None = None
    ) -> ClipLoader:
        share = Share(batch_size or self.batch_size, self.world.rank, self.world.size)
        return ClipLoader(
            self.config,
            self.stage,
            share,
            needs_motion=self.task.needs_motion,
            manifest=self.task.manifest,
            make_feed=make_feed,
        )


def profile_run(
    config: RunConfig, stage: Stage, seconds: float, said: Callable[[str], None]
) -> tuple[Profile, dict[str, Any]] | None:
    """Measures for about `seconds`: the profile and a time line, for the first rank alone.

    `said` is told what comes next. No run folder is made or changed. All ranks must call it.
    Raises `UserError` for what a run would refuse too.
    """
    world = join_world(choose_device(config))
    with (
        watched(world, config) as doing,
        TemporaryDirectory(prefix="mgm-dali-profile-") as folder,
    ):

        def goes_on(what: str) -> None:
            doing(what)
            if world.is_first:
                said(what)

        goes_on("setting up")
        accumulated = with_accumulation(config, world.size).training.accumulate_steps
        config, task = prepared_task(config, stage, world)
        setup = _Setup(config, task, stage, world, seconds, Path(folder), goes_on)
        profile, time_line = _measured(setup, accumulated)
    return (profile, time_line) if world.is_first else None


def prepared_task(config: RunConfig, stage: Stage, world: World) -> tuple[RunConfig, Task]:
    """What a run of this stage trains, one forward pass a step. All ranks must call it."""
    one_pass = {"accumulate_steps": 1, "global_batch": None}
    training = config.training.model_copy(update=one_pass)
    config = config.model_copy(update={"training": training})
    if stage == "pretrain":
        return prepared_pretraining(config, world)
    config, objective = objective_of(config, world, to_train=True)
    return prepared_finetuning(config, objective, world)


def _measured(setup: _Setup, accumulated: int) -> tuple[Profile, dict[str, Any]]:
    config, world = setup.config, setup.world
    machine = Machine(config.data.num_workers, cores_of_a_rank(world), world.device.type == "cuda")
    with setup.loader() as loader:
        placement = loader.placement
        setup.said("reading clips in one process, step by step")
        reading = measure_reading(loader.feed, setup.share("reading"), setup.new_folder("reading"))
        setup.said("preparing a few videos, and reading them")
        prepared = read_prepared(loader.feed, PREPARED_SHARE * setup.seconds, setup.folder)
    setup.said("handing clips over, augmenting them")
    with setup.loader(RememberingFeed) as loader:
        graph = measure_graph(loader, setup.share("graph"))
    setup.said("the whole loader, without a network")
    with setup.loader() as loader:
        feeding = measure_loader(loader, setup.share("loader"))
        batch = next(iter(loader))
    engine = Engine(setup.task.network, setup.task.groups, config, world, setup.task.average)
    setup.said("training steps on one batch")
    batch = _affordable(setup, engine, batch)
    computing = measure_computing(
        engine, setup.task, batch, config.training.precision, setup.share("computing")
    )
    together, trace, time_line = _together(setup, engine, computing, feeding)
    costs = costs_of(reading, graph, computing, setup.batch_size, config, accumulated)
    bound = find_bound(costs, machine)
    facts = facts_of(config, setup.stage, prepared, accumulated, placement.motion_source)
    advice = advise(costs, machine, facts)
    rate = torch.tensor(together.clips_per_second, device=world.device)
    profile = Profile(
        stage=setup.stage,
        device=_name_of(world.device),
        ranks=world.size,
        settings=_settings(config, placement, accumulated),
        machine=machine,
        reading=reading,
        prepared=prepared,
        graph=graph,
        feeding=feeding,
        computing=computing,
        costs=costs,
        limits=limits(costs, machine),
        bound=bound,
        together=together,
        trace=trace,
        clips_per_second=float(world.sum(rate)),
        gflops_a_clip=train_gflops(config, setup.stage),
        advice=advice,
        sentence=in_a_sentence(bound, costs, machine, advice),
    )
    return profile, time_line


def _affordable(setup: _Setup, engine: Engine, batch: ClipBatch) -> ClipBatch:
    """A batch on which a step has been taken; on a CPU cut to as many clips as a step may take."""
    if setup.world.device.type == "cuda":
        take_step(engine, setup.task, batch)
        return batch
    augment = setup.config.augment
    unit = math.lcm(augment.repeats, 2 if augment.mixup or augment.cutmix else 1)
    few = first_clips(batch, unit)
    take_step(engine, setup.task, few)
    trial = spent_by(lambda: take_step(engine, setup.task, few), 1, setup.world.device)
    units = int(LONGEST_STEP_SHARE * setup.seconds / trial.seconds)
    count = unit * min(max(units, 1), len(batch) // unit)
    return first_clips(batch, setup.world.of_first(count))


def _together(
    setup: _Setup, engine: Engine, computing: Computing, feeding: Feeding
) -> tuple[Together, Trace, dict[str, Any]]:
    """Everything side by side, and a time line of it."""
    setup.said("everything together")
    clips, world = computing.num_clips, setup.world
    reading_seconds = feeding.batches.each()[0] * clips / setup.batch_size
    step_seconds = max(computing.whole.each()[0], reading_seconds)
    planned = plan_steps(step_seconds, setup.config.data.prefetch_batches, setup.share("together"))
    steps = world.of_first(planned[0]), world.of_first(planned[1])  # all must take as many
    reads = setup.new_folder("reads")
    with setup.loader(partial(TracedFeed, folder=reads), clips) as loader:
        batches = loader.endless()
        together = run_together(engine, setup.task, loader, batches, steps)
        setup.said("a time line of some steps")
        traced = TRACED_STEPS if sum(steps) > LEAST_STEPS else 1  # they are slow
        trace, time_line = traced_steps(engine, setup.task, batches, traced, reads)
    return together, trace, time_line


def _settings(config: RunConfig, placement: Placement, accumulated: int) -> dict[str, Any]:
    """What of a configuration decides its speed."""
    training, augment, model = config.training, config.augment, config.model
    return {
        "data.train": str(config.data.train),
        "data.num_workers": config.data.num_workers,
        "data.prefetch_batches": config.data.prefetch_batches,
        "decode": placement.decode,
        "motion": placement.motion_source,
        "augment.repeats": augment.repeats,
        "augment.rand_augment.layers": augment.rand_augment.layers,
        "mask.strategy": config.mask.strategy,
        "mask.ratio": config.mask.ratio,
        "mask.decoded_share": config.mask.decoded_share,
        "model.name": model.name,
        "model.num_frames": model.num_frames,
        "model.image_size": model.image_size,
        "training.batch_size": training.batch_size,
        "training.accumulate_steps": accumulated,
        "training.precision": training.precision,
        "training.attention_kernel": training.attention_kernel,
        "training.compile": training.compile,
        "training.zero_stage": training.zero_stage,
    }


def _name_of(device: torch.device) -> str:
    return torch.cuda.get_device_name(device) if device.type == "cuda" else "CPU"
