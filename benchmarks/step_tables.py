"""Measured pretraining steps as tables for people."""

from collections.abc import Mapping
from statistics import median

from rich.console import Console
from rich.table import Table
from step_contenders import OFFICIAL, Setup
from step_goals import CLIP, PEAK, Measured
from step_memory import Memory

__all__ = ["print_setup"]

COLUMNS = (
    *("clips/s", "ms a clip", "least", "CPU ms", "least", "x as fast", "single rounds", "by wall"),
    *("GFLOP/s", "MB held", "MB a step"),
)


def print_setup(
    console: Console, setup: Setup, measured: Measured, memory: Mapping[str, Memory | str]
) -> None:
    """A row for each contender; how many times as fast as VideoMAE's own it is."""
    table = Table(
        title=f"{setup.name}: {setup.batch} clips a step, {measured.rounds} rounds",
        title_justify="left",
    )
    table.add_column("", no_wrap=True)
    for name in COLUMNS:
        table.add_column(name, justify="right")
    for label in measured.wall.seconds:
        table.add_row(label, *_speed(setup, label, measured), *_megabytes(memory.get(label)))
    console.print(table)
    for label, reason in measured.failures.items():
        console.print(f"  {label}: not measured: {reason}", markup=False)
    for label, each in memory.items():
        if isinstance(each, str) and label not in measured.failures:
            console.print(f"  {label}: memory not measured: {each}", markup=False)
    losses = ", ".join(f"{label} {loss:.5f}" for label, loss in measured.losses.items())
    console.print(f"  first losses: {losses}\n", markup=False)


def _speed(setup: Setup, label: str, measured: Measured) -> list[str]:
    wall, cpu = (each.seconds[label][CLIP] for each in (measured.wall, measured.cpu))
    on_gpu = setup.device == "cuda"
    judged = measured.wall if on_gpu else measured.cpu
    ratio, by_wall = (each.ratio(OFFICIAL, label, [CLIP]) for each in (judged, measured.wall))
    rate = setup.step_gflops(label) / median(wall)
    peak = measured.wall.seconds.get(PEAK)
    share = f" ({median(peak[CLIP]) / median(wall):.0%})" if peak and label != PEAK else ""
    return [
        f"{1 / median(wall):.2f}",
        *(_milliseconds(each(seconds)) for seconds in (wall, cpu) for each in (median, min)),
        f"{ratio.median:.2f}" if ratio else "-",
        f"{ratio.low:.2f} to {ratio.high:.2f}" if ratio else "-",
        f"{by_wall.median:.2f}" if by_wall else "-",
        f"{rate:.0f}{share}",
    ]


def _megabytes(memory: Memory | str | None) -> list[str]:
    if memory is None or isinstance(memory, str):
        return ["-", "-"]
    return [f"{memory.held:.0f}", f"{memory.of_step:.0f}"]


def _milliseconds(seconds: float) -> str:
    return f"{seconds * 1e3:.{0 if seconds > 0.1 else 2}f}"
