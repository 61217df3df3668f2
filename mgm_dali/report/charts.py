"""Charts of a run: its losses, and which classes it takes for which."""

from collections.abc import Mapping, Sequence

import numpy as np
from matplotlib.figure import Figure
from matplotlib.ticker import MaxNLocator
from numpy.typing import ArrayLike, NDArray

from mgm_dali.report.style import COLOURS, LINE_STYLES, figure_style

__all__ = ["draw_confusion", "draw_losses", "smooth"]

SMOOTHED_SHARE = 0.05
"""Width of the running mean, as a share of the curve."""
MAX_CLASSES_NAMED = 40
MAX_CLASSES_COUNTED = 16


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


def draw_confusion(matrix: NDArray[np.integer], class_names: Sequence[str]) -> Figure:
    """Counts `[C, C]`: row = true class, column = predicted class; colour is the row's share."""
    num_classes = len(class_names)
    share = matrix / np.maximum(matrix.sum(axis=1, keepdims=True), 1)
    accuracy = np.trace(matrix) / max(int(matrix.sum()), 1)
    side = float(np.clip(2.5 + 0.45 * num_classes, 4.5, 12))
    with figure_style():
        figure = Figure(figsize=(side + 0.8, side), layout="constrained")
        axes = figure.subplots()
        image = axes.imshow(share, cmap="Blues", vmin=0, vmax=1)
        axes.set(xlabel="predicted", ylabel="true class")
        axes.set_title(
            f"{accuracy:.1%} of {matrix.sum()} right, {num_classes} classes", fontsize=13, pad=10
        )
        if num_classes <= MAX_CLASSES_NAMED:
            axes.set_xticks(range(num_classes), class_names, rotation=45, ha="right")
            axes.set_yticks(range(num_classes), class_names)
        if num_classes <= MAX_CLASSES_COUNTED:
            for (row, column), count in np.ndenumerate(matrix):
                ink = "white" if share[row, column] > 0.5 else "black"
                axes.text(column, row, str(count), color=ink, ha="center", va="center")
        bar = figure.colorbar(image, ax=axes, shrink=0.7, aspect=14)
        bar.set_label("share of the true class")
    return figure


def smooth(values: NDArray[np.float64]) -> NDArray[np.float64]:
    """Running mean of the same length; at the ends the window is cut, not padded."""
    half = int(len(values) * SMOOTHED_SHARE / 2)
    total = np.concatenate([[0.0], np.cumsum(values)])
    place = np.arange(len(values))
    first, last = np.maximum(place - half, 0), np.minimum(place + half + 1, len(values))
    mean: NDArray[np.float64] = (total[last] - total[first]) / (last - first)
    return mean
