"""A chart of ratios to others: one panel a script, bars that begin at a line at 1."""

from collections.abc import Mapping
from typing import Any

from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import FuncFormatter

from mgm_dali.report.style import COLOURS, figure_style

__all__ = ["draw_ratios"]

WIDTH_INCHES = 10.0
ROW_INCHES = 0.24
PANEL_INCHES = 0.5
"""What a panel needs beside its rows."""
FARTHEST = 1.15
"""How far the axis reaches beyond the last bar."""
OURS = "ours"


def draw_ratios(numbers: Mapping[str, Mapping[str, Any]]) -> Figure | None:
    """The ratios of each script, by its name, on one logarithmic axis; None if there are none.

    Ratios to another way of ours are left out: they are no comparison with others.
    """
    rows = {
        name: [row for row in found["ratios"] if not row["peer"].startswith(OURS)]
        for name, found in numbers.items()
    }
    rows = {name: listed for name, listed in rows.items() if listed}
    if not rows:
        return None
    lengths = [len(listed) for listed in rows.values()]
    height = ROW_INCHES * sum(lengths) + PANEL_INCHES * len(lengths) + 0.5
    with figure_style():
        figure = Figure(figsize=(WIDTH_INCHES, height), layout="constrained")
        panels = figure.subplots(
            len(rows), sharex=True, squeeze=False, gridspec_kw={"height_ratios": lengths}
        )[:, 0]
        for number, (axes, (name, listed)) in enumerate(zip(panels, rows.items(), strict=True)):
            _draw_panel(axes, listed, COLOURS[number % len(COLOURS)])
            title = f"{name.replace('_', ' ')}: {numbers[name]['about']}"
            axes.set_title(title, loc="left").set_parse_math(False)
        every = [row[key] for listed in rows.values() for row in listed for key in ("low", "high")]
        panels[0].set_xlim(min(*every, 1) / FARTHEST, max(*every, 1) * FARTHEST)
        panels[-1].set_xlabel("how many times better ours is (1: the same)")
    return figure


def _draw_panel(axes: Axes, rows: list[dict[str, Any]], colour: str) -> None:
    places = range(len(rows))
    ratios = [row["ratio"] for row in rows]
    axes.set_xscale("log")
    axes.barh(places, [ratio - 1 for ratio in ratios], left=1, color=colour, height=0.7)
    ends = [row["low"] for row in rows], [row["high"] for row in rows]
    axes.hlines(places, *ends, color="0.2", linewidth=1)
    axes.axvline(1, color="black", linewidth=1)
    names = [f"{row['what']}  against  {row['peer']}" for row in rows]
    for label in axes.set_yticks(places, names, fontsize=8):
        label.label1.set_parse_math(False)
    for place, row in enumerate(rows):
        end = max(row["high"], row["ratio"], 1)
        text = f" {row['ratio']:.3g}"
        axes.text(end, place, text, va="center", fontsize=8, clip_on=False)
    axes.set_ylim(len(rows) - 0.4, -0.6)
    axes.xaxis.set_major_formatter(FuncFormatter(lambda value, _: f"{value:g}"))
    axes.grid(axis="x", color="0.9")
    axes.set_axisbelow(True)
