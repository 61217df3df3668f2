"""`mgm-dali profile`: where the time of a run goes, what bounds it, and what would help."""

import json
from collections.abc import Sequence
from dataclasses import asdict
from math import isnan, nan
from pathlib import Path

from rich.console import Console
from rich.table import Table

from mgm_dali.config import RunConfig, load_config
from mgm_dali.files import write_whole
from mgm_dali.launcher import rank_and_world_size
from mgm_dali.pipelines.share import Stage
from mgm_dali.plain_table import print_line, print_table
from mgm_dali.profiling.costs import StepTime
from mgm_dali.profiling.planning import Asked, make_plan, plan_in_words
from mgm_dali.profiling.profile import Profile, profile_run
from mgm_dali.profiling.sweep import Tried, best_of, combinations, split_axes, sweep
from mgm_dali.profiling.trace import write_time_line
from mgm_dali.report.profile import draw_profile
from mgm_dali.report.saving import save_figure

__all__ = ["run_profile", "run_sweep"]

MOST_ADVICE = 4
BUSY_CORES = 0.3
"""Less is the noise of any machine."""


def run_profile(
    config: RunConfig, stage: Stage, seconds: float, output: Path | None, asked: Asked | None
) -> None:
    """Profiles a run, prints what was found, and writes profile.json, .png and trace.json.gz.

    They go to `output`, by default RUN/profile. The first rank alone says and writes anything.
    """
    console = Console(highlight=False)
    found = profile_run(config, stage, seconds, lambda what: print_line(console, f"... {what}"))
    if found is None:
        return
    profile, time_line = found
    output = output or config.output_dir / "profile"
    output.mkdir(parents=True, exist_ok=True)
    write_whole(output / "profile.json", json.dumps(asdict(profile), indent=1) + "\n")
    save_figure(draw_profile(profile), output / "profile.png")
    write_time_line(time_line, output / "trace.json.gz")
    print_table(console, _table(profile))
    plan = plan_in_words(make_plan(profile, asked)) if asked else []
    for line in (*_lines(profile), profile.sentence, *_advice(profile), *plan, _files(output)):
        print_line(console, line)


def run_sweep(
    path: Path, overrides: Sequence[str], stage: Stage, seconds: float, output: Path | None
) -> None:
    """Tries all combinations of the overrides that name several values, and prints them.

    The best one is kept in sweep.json and, as overrides, in overrides.txt. Raises `UserError` if
    none works.
    """
    console = Console(highlight=False)
    plain, axes = split_axes(overrides)
    choices = {choice: load_config(path, [*plain, *choice]) for choice in combinations(axes)}
    output = output or next(iter(choices.values())).output_dir / "profile"
    found = sweep(choices, stage, seconds, lambda tried: print_line(console, _tried(tried)))
    best = best_of(found)
    rank, _ = rank_and_world_size()
    if rank:
        return
    output.mkdir(parents=True, exist_ok=True)
    write_whole(output / "sweep.json", json.dumps([asdict(one) for one in found], indent=1) + "\n")
    write_whole(output / "overrides.txt", " ".join(best.overrides) + "\n")
    rate = f"{best.clips_per_second:.1f} clips/s"
    print_line(console, f"best       {' '.join(best.overrides)} ({rate})")
    print_line(console, f"sweep.json and overrides.txt are in {output}")


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


def _table(profile: Profile) -> Table:
    """A row for each part, alone; the whole of each place behind its parts."""
    costs = profile.costs
    table = Table(box=None, pad_edge=False, padding=(0, 2, 0, 0))
    table.add_column("where", no_wrap=True)
    table.add_column("part", no_wrap=True)
    for name in ("ms a clip", "CPU ms", "clips/s"):
        table.add_column(name, justify="right", no_wrap=True)
    graph = {name: StepTime(seconds, nan) for name, seconds in costs.graph_steps.items() if seconds}
    places = {
        "workers": ("a worker", costs.worker_steps, costs.worker),
        "graph": ("graph", graph, costs.graph),
        "network": ("network", costs.network_steps, costs.network),
    }
    for limit, (where, parts, whole) in places.items():
        for name, step in parts.items():
            table.add_row(where, name, *_milliseconds(step), "")
        table.add_row(where, "all of it", *_milliseconds(whole), f"{profile.limits[limit]:.1f}")
    return table


def _milliseconds(time: StepTime) -> tuple[str, str]:
    """Wall and CPU time; where that is not known, nothing."""
    cpu = "" if isnan(time.cpu_seconds) else f"{1e3 * time.cpu_seconds:.2f}"
    return f"{1e3 * time.seconds:.2f}", cpu


def _lines(profile: Profile) -> list[str]:
    together, machine, memory = profile.together, profile.machine, profile.together.memory
    batch, clips = profile.settings["training.batch_size"], profile.computing.num_clips
    cut = f" in steps of {clips} of the batch's {batch} clips" if clips < batch else ""
    ranks = f" of all {profile.clips_per_second:.1f}" if profile.ranks > 1 else ""
    loader = batch / profile.feeding.batches.each()[0]
    on_device = f", device {_gib(memory.device_all_bytes)}" if memory.device_all_bytes else ""
    lines = [
        f"loader     {loader:.1f} clips/s alone, with {machine.num_workers} worker process(es)",
        f"cores      {machine.cores:.3g}, enough for {profile.limits['cores']:.1f} clips/s",
        f"together   {together.clips_per_second:.1f}{ranks} clips/s{cut}, waiting for data "
        f"{together.data_wait_share:.0%}; the parts promise {profile.bound.clips_per_second:.1f}",
        f"CPU        {1e3 * together.cpu_seconds / together.clips:.1f} ms a clip; the parts alone "
        f"take {1e3 * profile.costs.cpu_seconds:.1f}",
        f"memory     this process {_gib(memory.process_bytes)}, its workers "
        f"{_gib(memory.workers_bytes)}, clips handed over {_gib(memory.shared_bytes)}{on_device}",
    ]
    if together.others_cores > BUSY_CORES:
        lines.append(
            f"busy       other programs took {together.others_cores:.1f} core(s) meanwhile: these "
            "numbers are too low"
        )
    if profile.trace.gpu_busy_share is not None:
        lines.append(f"GPU        busy for {profile.trace.gpu_busy_share:.0%} of the time")
    if profile.ranks > 1:
        taken = 1e3 * profile.computing.communication_seconds
        lines.append(f"ranks      averaging all gradients alone takes {taken:.1f} ms a step")
    left_out = profile.reading.unreadable + together.skipped
    if left_out:
        lines.append(f"skipped    {left_out} clip(s) whose videos cannot be read")
    return lines


def _advice(profile: Profile) -> list[str]:
    return [
        f"  {one.change}: about {one.clips_per_second:.3g} clips/s, {one.gain:.2f} times as many"
        + (" (another training)" if one.alters_training else "")
        for one in profile.advice[:MOST_ADVICE]
    ]


def _files(output: Path) -> str:
    return f"profile.json, profile.png and trace.json.gz (for ui.perfetto.dev) are in {output}"


def _gib(count: int) -> str:
    return f"{count / 2**30:.2f} GiB"
