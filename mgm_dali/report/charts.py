"""Charts of a run: its losses, which classes it takes for which, how it finds each action."""

from collections.abc import Mapping, Sequence

import numpy as np
from matplotlib.colors import PowerNorm
from matplotlib.figure import Figure
from matplotlib.ticker import MaxNLocator
from numpy.typing import ArrayLike, NDArray

from mgm_dali.in_words import printable
from mgm_dali.report.style import COLOURS, LINE_STYLES, figure_style

__all__ = ["draw_average_precisions", "draw_confusion", "draw_losses", "smooth"]

SMOOTHED_SHARE = 0.05
"""Width of the running mean, as a share of the curve."""
MAX_CLASSES_NAMED = 400
MAX_CLASSES_COUNTED = 16
MAX_CLASSES_FITTED = 60
"""Of more, measuring all names for a fitted layout takes half a minute; they stick out instead,
which `save_figure` sees to. And single mistakes are hard to see: small shares are drawn darker."""
LONGEST_NAME = 40
CELL_INCHES = 0.45
"""Side of a confusion matrix's cell where there are few."""
SMALLEST_NAMED_CELL_INCHES = 0.09
"""Names of 5 points fit beside it; the picture grows with the classes."""


def draw_losses(
    curves: Mapping[str, tuple[ArrayLike, ArrayLike]],
    title: str = "Training loss",
    y_label: str = "loss",
) -> Figure:
    """One curve `(steps, values)` for each name: the raw values thin, their running mean bold."""
    with figure_style():
        figure = Figure(figsize=(7, 4), layout="constrained")
        axes = figure.subplots()
        for number, (name, (steps, values)) in enumerate(curves.items()):
            steps, values = np.asarray(steps), np.asarray(values, float)
            colour = COLOURS[number % len(COLOURS)]
            style = LINE_STYLES[number % len(LINE_STYLES)]
            axes.plot(steps, values, color=colour, linewidth=0.8, alpha=0.3)
            axes.plot(steps, smooth(values), style, color=colour, linewidth=2, label=name)
        axes.set(xlabel="optimiser step", ylabel=y_label)
        axes.set_title(title, fontsize=13)
        axes.xaxis.set_major_locator(MaxNLocator(integer=True))
        axes.grid(axis="y", color="0.9")
        axes.set_axisbelow(True)
        axes.margins(x=0.01)
        axes.legend(title="thin: each step, bold: running mean", alignment="left")
    return figure


def draw_confusion(
    matrix: NDArray[np.integer], class_names: Sequence[str], num_unreadable: int = 0
) -> Figure:
    """Counts `[C, C]`: row = true class, column = predicted class; colour is the row's share.

    Unreadable videos stand in no cell; they count as wrong in the title.
    """
    num_classes = len(class_names)
    share = matrix / np.maximum(matrix.sum(axis=1, keepdims=True), 1)
    num_videos = int(matrix.sum()) + num_unreadable
    accuracy = np.trace(matrix) / max(num_videos, 1)
    is_named = num_classes <= MAX_CLASSES_NAMED
    side = float(np.clip(2.5 + CELL_INCHES * num_classes, 4.5, 12))
    if is_named:
        side = max(side, 2.5 + SMALLEST_NAMED_CELL_INCHES * num_classes)
    with figure_style():
        few = num_classes <= MAX_CLASSES_FITTED
        figure = Figure(figsize=(side + 0.8, side), layout="constrained" if few else None)
        axes = figure.subplots(gridspec_kw=None if few else {"left": 0, "right": 1, "bottom": 0})
        strength = PowerNorm(1.0 if few else 0.5, vmin=0, vmax=1)
        image = axes.imshow(share, cmap="Blues", norm=strength)
        axes.set(xlabel="predicted", ylabel="true class")
        axes.set_title(
            f"{accuracy:.1%} of {num_videos} right, {num_classes} classes"
            + (f", {num_unreadable} unreadable" if num_unreadable else ""),
            fontsize=13,
            pad=10,
        )
        if is_named:
            cell_points = 72 * (side - 2.5) / num_classes
            size = min(10.0, 0.75 * cell_points)
            upright = {"rotation": 90} if size < 8 else {"rotation": 45, "ha": "right"}
            names = [_short(name) for name in class_names]
            axes.set_xticks(range(num_classes), names, fontsize=size, **upright)
            axes.set_yticks(range(num_classes), names, fontsize=size)
            for label in (*axes.get_xticklabels(), *axes.get_yticklabels()):
                label.set_parse_math(False)  # a name may hold dollar signs
        if num_classes <= MAX_CLASSES_COUNTED:
            for (row, column), count in np.ndenumerate(matrix):
                ink = "white" if share[row, column] > 0.5 else "black"
                axes.text(column, row, str(count), color=ink, ha="center", va="center")
        bar = figure.colorbar(image, ax=axes, shrink=0.7, fraction=0.06, pad=0.02)
        bar.set_label("share of the true class")
    return figure


def draw_average_precisions(
    precisions: Mapping[str, float], boxes: Mapping[str, int], title: str
) -> Figure:
    """A bar for each action that anybody does, the best above, with its number of true boxes."""
    names = sorted(precisions, key=lambda name: precisions[name])
    with figure_style():
        figure = Figure(figsize=(7, 1.2 + 0.22 * len(names)), layout="constrained")
        axes = figure.subplots()
        values = [precisions[name] for name in names]
        axes.barh(range(len(names)), values, color=COLOURS[0], height=0.7)
        for place, name in enumerate(names):
            axes.text(values[place] + 0.01, place, str(boxes[name]), va="center", fontsize=8)
        labels = axes.set_yticks(range(len(names)), [_short(name) for name in names], fontsize=8)
        for label in labels:
            label.label1.set_parse_math(False)  # a name may hold dollar signs
        axes.set(xlim=(0, 1.08), xlabel="average precision (beside: true boxes)")
        axes.set_title(title, fontsize=13)
        axes.margins(y=0.01)
    return figure


def _short(name: str) -> str:
    name = printable(name)
    return name if len(name) <= LONGEST_NAME else f"{name[: LONGEST_NAME - 3]}..."


def smooth(values: NDArray[np.float64]) -> NDArray[np.float64]:
    """Running mean of the same length; at the ends the window is cut, not padded."""
    half = int(len(values) * SMOOTHED_SHARE / 2)
    total = np.concatenate([[0.0], np.cumsum(values)])
    place = np.arange(len(values))
    first, last = np.maximum(place - half, 0), np.minimum(place + half + 1, len(values))
    mean: NDArray[np.float64] = (total[last] - total[first]) / (last - first)
    return mean
