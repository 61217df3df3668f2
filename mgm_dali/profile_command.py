"""`mgm-dali profile`: where the time of a run goes, what bounds it, and what would help."""

import json
from collections.abc import Sequence
from dataclasses import asdict
from itertools import chain
from pathlib import Path
from tempfile import TemporaryDirectory

from rich.console import Console
from rich.table import Table

from mgm_dali.config import RunConfig, load_config
from mgm_dali.errors import UserError
from mgm_dali.files import write_whole
from mgm_dali.pipelines.placement import choose_device
from mgm_dali.pipelines.share import Stage
from mgm_dali.plain_table import print_line, print_table
from mgm_dali.profiling.planning import Asked, make_plan, plan_in_words, why_not
from mgm_dali.profiling.profile import Profile, profile_run
from mgm_dali.profiling.step_time import StepTime
from mgm_dali.profiling.sweep import Tried, best_of, combinations, split_axes, try_settings
from mgm_dali.profiling.tasks import watched_apart
from mgm_dali.profiling.trace import write_time_line
from mgm_dali.report.profile import draw_profile
from mgm_dali.report.saving import save_figure
from mgm_dali.training.world import World, join_world

__all__ = ["run_profile", "run_sweep"]

PLACES = {"workers": "a worker", "graph": "graph", "computing": "computing"}
MOST_ADVICE = 5
BUSY_CORES = 0.3
"""Less is the noise of any machine."""
SUMS_AGREE = 0.1


def run_profile(
    config: RunConfig, stage: Stage, seconds: float, output: Path | None, asked: Sequence[Asked]
) -> None:
    """Profiles a run, prints what was found, and writes profile.json, .png and trace.json.gz.

    They go to `output`, by default RUN/profile. The first rank alone says and writes anything.
    """
    device = choose_device(config)
    for one in asked:
        if problem := why_not(one, config, device.type):
            raise UserError(problem)
    console = Console(highlight=False)
    output = _folder(output or config.output_dir / "profile", join_world(device))
    found = profile_run(config, stage, seconds, lambda what: print_line(console, f"... {what}"))
    if found is None:
        return
    profile, time_line = found
    plans = [make_plan(profile, one) for one in asked]
    in_words = chain.from_iterable(map(plan_in_words, plans))
    print_table(console, _table(profile))
    for line in (*_lines(profile), profile.sentence, *_advice(profile), *in_words):
        print_line(console, line)
    numbers = {**asdict(profile), "plans": [asdict(plan) for plan in plans]}
    write_whole(output / "profile.json", json.dumps(numbers, indent=1) + "\n")
    save_figure(draw_profile(profile), output / "profile.png")
    write_time_line(time_line, output / "trace.json.gz")
    print_line(
        console,
        f"profile.json, profile.png and trace.json.gz (for ui.perfetto.dev) are in {output}",
    )


def run_sweep(
    path: Path, overrides: Sequence[str], stage: Stage, seconds: float, output: Path | None
) -> None:
    """Tries all combinations of the overrides that name several values, and prints them.

    They are kept in sweep.json, the best one as overrides in overrides.txt. Raises `UserError` if
    none works.
    """
    console = Console(highlight=False)
    plain, axes = split_axes(overrides)
    config = load_config(path, plain)
    world = join_world(choose_device(config))
    output = _folder(output or config.output_dir / "profile", world)
    found: list[Tried] = []
    with (
        TemporaryDirectory(prefix="mgm-dali-profile-") as folder,
        watched_apart(world, config, Path(folder), seconds) as doing,
    ):
        for tried in try_settings(
            combinations(axes),
            lambda choice: load_config(path, [*plain, *choice]),
            stage,
            seconds,
            world,
        ):
            found.append(tried)
            doing("the next choice")
            if world.is_first:
                print_line(console, _tried(tried))
                rows = json.dumps([asdict(one) for one in found], indent=1)
                write_whole(output / "sweep.json", rows + "\n")
    best = best_of(found)
    if world.is_first:
        write_whole(output / "overrides.txt", " ".join(best.overrides) + "\n")
        rate = f"{best.clips_per_second:.1f} clips/s"
        print_line(console, f"best       {' '.join(best.overrides)} ({rate})")
        print_line(console, f"sweep.json and overrides.txt are in {output}")


def _folder(output: Path, world: World) -> Path:
    """Makes it before anything is measured: what cannot be kept is not measured."""

    def make() -> Path:
        try:
            output.mkdir(parents=True, exist_ok=True)
        except OSError as error:
            raise UserError(f"{output}: {error.strerror}; name another folder by -o") from error
        return output

    return world.only_first(make, output)


def _table(profile: Profile) -> Table:
    """A row for each part, alone; the whole of each place behind its parts."""
    costs = profile.costs
    table = Table(box=None, pad_edge=False, padding=(0, 2, 0, 0))
    table.add_column("where", no_wrap=True)
    table.add_column("part", no_wrap=True)
    for name in ("ms a clip", "CPU ms", "clips/s"):
        table.add_column(name, justify="right", no_wrap=True)
    for place, (parts, whole) in costs.places.items():
        for name, step in parts.items():
            if step.seconds:
                table.add_row(PLACES[place], name, *_milliseconds(step), "")
        allowed = f"{profile.limits[place]:.1f}"
        table.add_row(PLACES[place], "all of it", *_milliseconds(whole), allowed)
    return table


def _lines(profile: Profile) -> list[str]:
    together, machine, memory = profile.together, profile.machine, profile.together.memory
    batch, clips = profile.settings["training.batch_size"], profile.computing.num_clips
    cut = f" in batches of {clips}, not {batch}" if clips < batch else ""
    ranks = f" of all {profile.clips_per_second:.1f}" if profile.ranks > 1 else ""
    loader = batch / profile.feeding.batches.each.seconds
    on_device = f", device {_gib(memory.device_all_bytes)}" if memory.device_all_bytes else ""
    lines = [
        f"loader     {loader:.1f} clips/s alone, with {machine.num_workers} worker process(es)",
        f"storage    {machine.storage_bytes_per_second / 1e6:.0f} MB/s, enough for "
        f"{profile.limits['storage']:.1f} clips/s",
        f"cores      {machine.cores:.3g}, enough for {profile.limits['cores']:.1f} clips/s",
        f"together   {together.clips_per_second:.1f}{ranks} clips/s{cut}, waiting for data "
        f"{together.data_wait_share:.0%}; the parts promise {min(profile.limits.values()):.1f}",
        f"CPU        {1e3 * together.cpu_seconds / together.clips:.1f} ms a clip; the parts alone "
        f"take {1e3 * profile.costs.cpu_seconds:.1f}",
        f"memory     this process {_gib(memory.process_bytes)}, its workers "
        f"{_gib(memory.workers_bytes)}, clips handed over {_gib(memory.shared_bytes)}{on_device}",
        *_uneven(profile),
    ]
    if operators := profile.trace.operators:
        shares = ", ".join(f"{name} {share:.0%}" for name, share in operators.items())
        lines.append(f"operators  {shares} of their time")
    if profile.others_cores > BUSY_CORES:
        lines.append(
            f"busy       other programs took {profile.others_cores:.1f} core(s) meanwhile: these "
            "numbers are too low"
        )
    if profile.trace.gpu_busy_share is not None:
        lines.append(f"GPU        busy for {profile.trace.gpu_busy_share:.0%} of the time")
    if profile.ranks > 1:
        slowest = max(range(profile.ranks), key=lambda r: profile.of_ranks[r].data_wait_share)
        share = profile.of_ranks[slowest].data_wait_share
        taken = 1e3 * profile.computing.averaging.seconds
        lines.append(
            f"ranks      averaging all gradients alone takes {taken:.1f} ms a step; rank {slowest} "
            f"waits longest for data, {share:.0%}"
        )
    if left_out := sum(rank.skipped for rank in profile.of_ranks):
        lines.append(f"skipped    {left_out} clip(s) whose videos cannot be read")
    return lines


def _uneven(profile: Profile) -> list[str]:
    """Says where parts do not sum to the whole: then something disturbed one of the two."""
    said = []
    for place, (parts, whole) in profile.costs.places.items():
        if place == "graph":  # its parts are shares of the whole, or run side by side
            continue
        total = sum(step.seconds for step in parts.values())
        if abs(total - whole.seconds) > SUMS_AGREE * whole.seconds:
            said.append(
                f"uneven     the parts of {PLACES[place]} take {1e3 * total:.1f} ms, all at once "
                f"{1e3 * whole.seconds:.1f}: measure again when the machine is idle, or for longer"
            )
    return said


def _advice(profile: Profile) -> list[str]:
    rate = profile.together.clips_per_second
    return [
        f"  {one.change}: about {one.gain * rate:.3g} clips/s, {one.gain:.2f} times as many"
        + (" (another training)" if one.alters_training else "")
        for one in profile.advice[:MOST_ADVICE]
    ]


def _tried(tried: Tried) -> str:
    """A line for one combination."""
    name = "  ".join(f"{override:24}" for override in tried.overrides)
    if tried.together is None:
        return f"{name}  {tried.problem}"
    together = tried.together
    return (
        f"{name}  {tried.clips_per_second:8.1f} clips/s  waiting for data "
        f"{together.data_wait_share:4.0%}  {1e3 * together.cpu_seconds / together.clips:7.1f} CPU "
        "ms a clip"
    )


def _milliseconds(time: StepTime) -> tuple[str, str]:
    return f"{1e3 * time.seconds:.2f}", f"{1e3 * time.cpu_seconds:.2f}"


def _gib(count: int) -> str:
    return f"{count / 2**30:.2f} GiB"
