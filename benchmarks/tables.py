"""Measurements as tables for people."""

from collections.abc import Iterable, Mapping, Sequence
from statistics import median
from typing import Any

from contenders import Verdict
from rich.console import Console
from rich.table import Table
from rounds import Contender, Job, Ratio, Timings
from turns import CLIPS, CPU, WALL

__all__ = ["failure_lines", "print_goals", "print_rates", "print_section", "print_store"]


def print_section(
    console: Console,
    title: str,
    timings: Timings,
    contenders: Sequence[Contender],
    jobs: Sequence[Job],
) -> None:
    """Each job by itself, all jobs together, and what there is to say about them."""
    shown = [c.label for c in contenders if timings.common_jobs(c.label)]
    console.print(_per_job(title, timings, shown, jobs))
    console.print(_together(title, timings, shown, jobs))
    for line in timings.notes + failure_lines(timings, len(jobs)):
        console.print(f"  {line}", markup=False)
    console.print()


def print_store(console: Console, store: dict[str, Any]) -> None:
    """Size of a store, and how fast one process fills it."""
    num_videos = store["num_videos"]
    wall = median(fill["wall_seconds"] for fill in store["fills"])
    cpu = median(fill["cpu_seconds"] for fill in store["fills"])
    frames = store["fills"][0]["frames"]
    console.print(
        f"store: {store['bytes'] / num_videos / 1e3:.0f} kB a video, {store['bytes'] / frames:.0f} "
        f"bytes a frame; filled by one process on one core, its start included: "
        f"{num_videos / wall:.1f} videos ({frames / wall:.0f} frames) a second, "
        f"{cpu / num_videos * 1e3:.0f} CPU ms a video\n"
    )


def print_rates(
    console: Console,
    title: str,
    timings: Mapping[str, Timings],
    contenders: Sequence[Contender],
    extras: Mapping[str, str],
) -> None:
    """One row for each; ratios are of CPU time, to the first of them.

    `extras` are more kinds of `timings`, with the format of their medians.
    """
    cpu, wall = timings[CPU], timings[WALL]
    shown = [c.label for c in contenders if c.label in cpu.seconds]
    table = Table(title=title, title_justify="left")
    table.add_column("", no_wrap=True)
    columns = ("clips/s", "most", "CPU ms a clip", "least", "x first", "single rounds", *extras)
    for name in columns:
        table.add_column(name, justify="right")
    for label in shown:
        wall_seconds, cpu_seconds = (each.seconds[label][CLIPS] for each in (wall, cpu))
        table.add_row(
            label,
            *(f"{1 / each(wall_seconds):.3g}" for each in (median, min)),
            *(f"{each(cpu_seconds) * 1e3:.1f}" for each in (median, min)),
            *_ratio_cells(cpu.ratio(label, shown[0], [CLIPS])),
            *(format(median(timings[kind].seconds[label][CLIPS]), extras[kind]) for kind in extras),
        )
    console.print(table)
    for line in failure_lines(cpu):
        console.print(f"  {line}", markup=False)
    console.print()


def print_goals(console: Console, title: str, verdicts: Iterable[Verdict]) -> None:
    """What was hoped of ours, and what was found."""
    table = Table(title=title, title_justify="left")
    for name in ("ratio", "goal", "found", "single rounds", ""):
        table.add_column(name)
    for verdict in verdicts:
        found = "not measured" if verdict.ratio is None else "met" if verdict.is_met else "NOT MET"
        table.add_row(
            str(verdict.goal),
            verdict.goal.bound,
            *_ratio_cells(verdict.ratio),
            found,
        )
    console.print(table)


def failure_lines(timings: Timings, num_jobs: int = 1) -> list[str]:
    """A line for each contender and reason that it did not do one of so many jobs."""
    lines = []
    for label, reasons in timings.failures.items():
        for reason in sorted(set(reasons.values())):
            jobs = [job for job, why in reasons.items() if why == reason]
            what = "not measured" if len(jobs) == num_jobs else f"without {', '.join(jobs)}"
            lines.append(f"{label}: {what}: {reason}")
    return lines


def _per_job(title: str, timings: Timings, labels: Sequence[str], jobs: Iterable[Job]) -> Table:
    table = Table(title=f"{title}: CPU ms, median (least)", title_justify="left")
    table.add_column("", no_wrap=True)
    for label in labels:
        table.add_column(label, justify="right")
    for job in jobs:
        cells = (_milliseconds(timings.seconds[label].get(job.name)) for label in labels)
        table.add_row(job.name, *cells)
    return table


def _together(title: str, timings: Timings, labels: Sequence[str], jobs: Sequence[Job]) -> Table:
    """Ratios are to the first contender."""
    table = Table(title=f"{title}: all together", title_justify="left")
    table.add_column("")
    for name in ("CPU ms each", "least", "us a frame", "x first", "single rounds", "done"):
        table.add_column(name, justify="right")
    for label in labels:
        done = timings.common_jobs(label)
        totals = timings.totals(label, done)
        frames = sum(job.num_frames for job in jobs if job.name in done)
        table.add_row(
            label,
            f"{median(totals) / len(done) * 1e3:.2f}",
            f"{min(totals) / len(done) * 1e3:.2f}",
            f"{median(totals) / frames * 1e6:.0f}",
            *_ratio_cells(timings.ratio(label, labels[0], done)),
            f"{len(done)} of {len(jobs)}",
        )
    return table


def _ratio_cells(ratio: Ratio | None) -> tuple[str, str]:
    if ratio is None:
        return "-", "-"
    digits = 3 if ratio.median < 10 else 1
    single_rounds = f"{ratio.low:.{digits}f} to {ratio.high:.{digits}f}"
    return f"{ratio.median:.{digits}f}", single_rounds


def _milliseconds(seconds: list[float] | None) -> str:
    if not seconds:
        return "-"
    digits = 2 if median(seconds) < 10e-3 else 0
    return f"{median(seconds) * 1e3:.{digits}f} ({min(seconds) * 1e3:.{digits}f})"
