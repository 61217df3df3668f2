"""The profile of a run: its parts alone, the whole together, and what bounds it."""

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import torch

from mgm_dali.clips.batch import ClipBatch
from mgm_dali.config import RunConfig
from mgm_dali.errors import UserError
from mgm_dali.pipelines.feed import ClipFeed
from mgm_dali.pipelines.loader import ClipLoader
from mgm_dali.pipelines.placement import Placement, choose_device
from mgm_dali.pipelines.share import Share, Stage
from mgm_dali.profiling.advice import Advice, advise, in_a_sentence
from mgm_dali.profiling.apart import reading_apart
from mgm_dali.profiling.clocks import spent_by
from mgm_dali.profiling.computing import Computing, first_clips, measure_computing, take_pass
from mgm_dali.profiling.costs import Bound, Costs, Machine, RankFound, find_bound, limits
from mgm_dali.profiling.feeding import Feeding, Graph, measure_graph, measure_loader
from mgm_dali.profiling.feeds import RememberingFeed, TracedFeed, first_samples
from mgm_dali.profiling.machine import cores_of_a_rank, ranks_here
from mgm_dali.profiling.prepared import Prepared, read_prepared
from mgm_dali.profiling.reading import Reading, drop_files, measure_reading
from mgm_dali.profiling.summing import costs_of, facts_of, train_gflops
from mgm_dali.profiling.tasks import (
    StepAsked,
    one_pass_a_step,
    prepared_task,
    step_asked,
    watched_apart,
)
from mgm_dali.profiling.together import Together, plan_passes, run_together
from mgm_dali.profiling.trace import Trace, traced_passes
from mgm_dali.training.engine import Engine
from mgm_dali.training.loop import Task
from mgm_dali.training.world import World, join_world

__all__ = ["Profile", "profile_run"]

SHARES = {"reading": 0.15, "graph": 0.1, "loader": 0.15, "computing": 0.2, "together": 0.25}
"""Of the time given."""
PREPARED_SHARE = 0.03
LONGEST_PASS_SHARE = 0.04
"""Of the time given. On a CPU larger batches are cut: a clip costs there what it costs."""
TRACED_PASSES = 3


@dataclass(frozen=True)
class Profile:
    """What was found; of the first rank where nothing else is said."""

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
    """Clips a second that each place would allow by itself."""
    bound: Bound
    together: Together
    of_ranks: list[RankFound]
    """Of every rank."""
    trace: Trace
    others_cores: float
    """That other programs of this machine took, while everything was at work."""
    gflops_a_clip: float
    """That a training step takes by formula: three forward passes."""
    advice: list[Advice]
    sentence: str
    """What bounds the run, and what to change."""

    @property
    def clips_per_second(self) -> float:
        """Of all ranks together."""
        return sum(rank.clips_per_second for rank in self.of_ranks)


@dataclass(frozen=True)
class _Setup:
    """What all measurements of this rank are of."""

    config: RunConfig
    """With all that it leaves open decided."""
    asked: StepAsked
    task: Task
    stage: Stage
    world: World
    seconds: float
    folder: Path
    said: Callable[[str], None]
    refused: dict[int, str] = field(default_factory=dict)
    """Rows that are known to be bad, to all loaders."""

    def share(self, part: str) -> float:
        """Seconds for a part."""
        return SHARES[part] * self.seconds

    def loader(
        self, make_feed: Callable[..., ClipFeed] | None = None, batch_size: int | None = None
    ) -> ClipLoader:
        clips = batch_size or self.config.training.batch_size
        loader = ClipLoader(
            self.config,
            self.stage,
            Share(clips, self.world.rank, self.world.size),
            needs_motion=self.task.needs_motion,
            manifest=self.task.manifest,
            make_feed=make_feed,
        )
        loader.feed.refused = self.refused
        return loader


def profile_run(
    config: RunConfig, stage: Stage, seconds: float, said: Callable[[str], None]
) -> tuple[Profile, dict[str, Any]] | None:
    """Measures for about `seconds`: the profile and a time line, for the first rank alone.

    `said` is told what comes next. Nothing is written. All ranks must call it. Raises `UserError`
    for what a run would refuse too.
    """
    world = join_world(choose_device(config))
    with TemporaryDirectory(prefix="mgm-dali-profile-") as name:
        folder = Path(name)
        with watched_apart(world, config, folder, seconds) as doing:

            def goes_on(what: str) -> None:
                doing(what)
                if world.is_first:
                    said(what)

            goes_on("setting up")
            asked = step_asked(config, world)
            if world.device.type == "cpu":  # a step of many passes takes minutes there
                config = one_pass_a_step(config)
            config, task = prepared_task(config, stage, world)
            setup = _Setup(config, asked, task, stage, world, seconds, folder, goes_on)
            try:
                profile, time_line = _measured(setup)
            except torch.OutOfMemoryError as error:
                raise UserError(
                    f"the GPU's memory is too small for this run: {error}; lower "
                    "training.batch_size, or set training.checkpoint_activations=true"
                ) from error
    return (profile, time_line) if world.is_first else None


def _measured(setup: _Setup) -> tuple[Profile, dict[str, Any]]:
    config, world = setup.config, setup.world
    with setup.loader() as loader, reading_apart(loader.feed) as there:
        placement = loader.placement
        setup.said("reading clips in one process, step by step")
        reading = measure_reading(there, setup.share("reading"))
        setup.said("preparing a few videos, and reading them")
        prepared = read_prepared(there, PREPARED_SHARE * setup.seconds, setup.folder)
        remembered = first_samples(there)
    setup.said("handing clips over, augmenting them")
    with setup.loader(partial(RememberingFeed, remembered=remembered)) as loader:
        graph = measure_graph(loader, setup.share("graph"))
    setup.said("the whole loader, without a network")
    with setup.loader() as loader:
        feeding, batch = measure_loader(loader, setup.share("loader"))
    engine = Engine(setup.task.network, setup.task.groups, config, world, setup.task.average)
    setup.said("training steps on one batch")
    batch = _affordable(setup, engine, batch)
    computing = measure_computing(engine, setup.task, batch, config, setup.share("computing"))
    del batch
    together, trace, time_line = _together(setup, engine, computing, feeding)
    here = ranks_here(world)
    machine = Machine(
        num_workers=config.data.num_workers,
        cores=cores_of_a_rank(world, here),
        storage_bytes_per_second=reading.storage_bytes_per_second,
        is_gpu=world.device.type == "cuda",
    )
    of_ranks, others = _of_ranks(world, here, together, reading)
    slowest = max(of_ranks, key=lambda rank: rank.data_wait_share)
    costs = costs_of(config, setup.asked, reading, graph, computing)
    facts = facts_of(config, setup.stage, setup.asked, placement, costs, prepared)
    advice = advise(costs, machine, slowest, facts)
    profile = Profile(
        stage=setup.stage,
        device=_name_of(world.device),
        ranks=world.size,
        settings=_settings(config, placement, setup.asked),
        machine=machine,
        reading=reading,
        prepared=prepared,
        graph=graph,
        feeding=feeding,
        computing=computing,
        costs=costs,
        limits=limits(costs, machine),
        bound=find_bound(costs, machine, slowest.data_wait_share),
        together=together,
        of_ranks=of_ranks,
        trace=trace,
        others_cores=others,
        gflops_a_clip=train_gflops(config, setup.stage),
        advice=advice,
        sentence=in_a_sentence(costs, machine, slowest, advice),
    )
    return profile, time_line


def _affordable(setup: _Setup, engine: Engine, batch: ClipBatch) -> ClipBatch:
    """A batch of which a whole step was taken; on a CPU cut to as many clips as a pass may take."""
    device, a_step = setup.world.device, setup.config.training.accumulate_steps
    if device.type == "cuda":
        spent_by(lambda: take_pass(engine, setup.task, batch), a_step, device)
        return batch
    augment = setup.config.augment
    unit = math.lcm(augment.repeats, 2 if augment.mixup or augment.cutmix else 1)
    few = first_clips(batch, unit)
    take_pass(engine, setup.task, few)
    trial = spent_by(lambda: take_pass(engine, setup.task, few), 1, device)
    units = int(LONGEST_PASS_SHARE * setup.seconds / trial.seconds)
    count = unit * min(max(units, 1), len(batch) // unit)
    batch = first_clips(batch, setup.world.of_first(count))
    if setup.config.training.compile:  # for this shape
        take_pass(engine, setup.task, batch)
    return batch


def _together(
    setup: _Setup, engine: Engine, computing: Computing, feeding: Feeding
) -> tuple[Together, Trace, dict[str, Any]]:
    """Everything side by side, and a time line of it."""
    setup.said("everything together")
    clips, world, training = computing.num_clips, setup.world, setup.config.training
    ahead = setup.config.data.prefetch_batches
    reading_seconds = feeding.batches.each.seconds * clips / training.batch_size
    pass_seconds = max(computing.whole.each.seconds, reading_seconds)
    planned = plan_passes(pass_seconds, ahead, setup.share("together"), training.accumulate_steps)
    passes = world.of_first(planned[0]), world.of_first(planned[1])  # all must take as many
    reads = setup.folder / "reads"
    reads.mkdir()
    with setup.loader(partial(TracedFeed, folder=reads), clips) as loader:
        drop_files(loader.feed)
        batches = loader.endless()
        together = run_together(engine, setup.task, loader, batches, passes)
        setup.said("a time line of some steps")
        quick = pass_seconds * (2 * ahead + 2) < PREPARED_SHARE * setup.seconds
        traced = (2 * ahead + 2, TRACED_PASSES) if world.of_first(quick) else (0, 1)
        trace, time_line = traced_passes(engine, setup.task, batches, traced, reads)
    return together, trace, time_line


def _of_ranks(
    world: World, here: Sequence[int], together: Together, reading: Reading
) -> tuple[list[RankFound], float]:
    """What each rank found, and the cores that other programs took on the first one's machine."""
    skipped = together.skipped + reading.unreadable
    cores = together.cpu_seconds / together.seconds
    own = [together.clips_per_second, together.data_wait_share, skipped, cores]
    table = torch.zeros(world.size, len(own), device=world.device)
    table[world.rank] = torch.tensor(own)
    rows = world.sum(table).tolist()
    ours = sum(rows[rank][3] for rank in here if rank != world.rank)
    found = [RankFound(rate, share, int(left_out)) for rate, share, left_out, _ in rows]
    return found, max(together.others_cores - ours, 0.0)


def _settings(config: RunConfig, placement: Placement, asked: StepAsked) -> dict[str, Any]:
    """What of a configuration decides its speed."""
    keys = {
        "data": ("train", "num_workers", "prefetch_batches", "motion_store"),
        "clip": ("sampling", "stride_frames", "target_fps"),
        "augment": ("crop", "repeats", "rand_augment"),
        "motion": ("accumulate", "subtract_camera"),
        "mask": ("strategy", "ratio", "center", "decoded_share", "compile"),
        "model": ("name", "num_frames", "image_size", "attention", "decoder_depth"),
        "training": (
            *("batch_size", "precision", "attention_kernel", "compile"),
            *("checkpoint_activations", "zero_stage"),
        ),
    }
    tree = config.model_dump(mode="json")
    chosen = {f"{part}.{key}": tree[part][key] for part, names in keys.items() for key in names}
    return {
        **chosen,
        "training.accumulate_steps": asked.passes,
        "training.global_batch": asked.global_batch,
        "decode": placement.decode,
        "motion": placement.motion_source,
    }


def _name_of(device: torch.device) -> str:
    return torch.cuda.get_device_name(device) if device.type == "cuda" else "CPU"
