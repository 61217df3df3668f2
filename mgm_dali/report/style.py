"""One look for all figures: colours that colour-blind readers tell apart, and readable sizes."""

from collections.abc import Iterator
from contextlib import contextmanager

import matplotlib
from matplotlib.axes import Axes
from matplotlib.colors import ListedColormap

__all__ = [
    "COLOURS",
    "LINE_STYLES",
    "MOTION_COLOURS",
    "bare",
    "figure_style",
]

COLOURS = ("#0072b2", "#d55e00", "#009e73", "#cc79a7", "#56b4e9", "#e69f00", "#000000")
"""Okabe and Ito's palette; pale yellow is left out, it is lost on white."""

LINE_STYLES = ("-", "--", "-.", ":")

MOTION_COLOURS = ListedColormap(matplotlib.colormaps["inferno"](range(40, 250)), "motion")
"""Dark purple to pale yellow; the ends, too dark or too pale to be seen on a frame, are cut."""


@contextmanager
def figure_style() -> Iterator[None]:
    """Font sizes and lines while a figure is made; nothing global stays changed."""
    settings = {
        "font.family": "DejaVu Sans",
        "font.size": 10,
        "axes.titlesize": 10,
        "figure.titlesize": 13,
        "axes.spines.top": False,
        "axes.spines.right": False,
        "axes.grid": False,
        "legend.frameon": False,
    }
    with matplotlib.rc_context(settings):
        yield


def bare(axes: Axes) -> None:
    """A picture, not a chart: no ticks and no frame."""
    axes.set_xticks([])
    axes.set_yticks([])
    for spine in axes.spines.values():
        spine.set_visible(False)
