"""A clip in rows over time: once as a sheet of paper, once as a film.

    sheet      frames   [0] [2] [4] [6]          film     frames   masked        a picture for
               masked   [0] [2] [4] [6]                   [ t ]    [ t ]         every t

What a row shows at a time is said once, as a function that draws it; both media call it.
Lengths are inches on paper. Letters: T frames, H W pixels.
"""

import textwrap
from collections.abc import Callable, Mapping
from dataclasses import dataclass

import numpy as np
from matplotlib.axes import Axes
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.cm import ScalarMappable
from matplotlib.colors import Colormap, Normalize
from matplotlib.figure import Figure
from numpy.typing import NDArray

from mgm_dali.report.style import bare, figure_style

__all__ = ["Panel", "Strip", "colour_bar", "draw_film", "draw_sheet", "pictures"]

Frames = NDArray[np.uint8]
Panel = Callable[[Axes, int], None]
"""Draws what is to be seen at a frame of the clip, counted from 0."""

MAX_COLUMNS = 8
SMALL, LARGE = 1.15, 2.3
"""Width of a picture of many rows, and of one that is alone."""
GAP = 0.06
LABELS = 1.9
"""Room for the names of the rows."""
LEGEND = 1.4
MAX_LEGEND_HEIGHT = 2.3
LINE = 0.2
"""Height of a line of text."""
FILM_COLUMNS = 5
FILM_DPI = 100
LETTERS_PER_INCH = 9
"""Of a title; notes are smaller."""
NOTE_COLOUR = "0.35"


@dataclass(frozen=True)
class Strip:
    """T frames of a clip in rows that are named and drawn by their panels."""

    title: str
    rows: Mapping[str, Panel]
    num_frames: int
    aspect: float = 1.0
    """Height of a picture in its widths."""
    slice_frames: int = 1
    """Frames that are shown as one: where it is 2, a column is a slice of the token grid."""
    note: str = ""
    """What is to be said in small below the title."""
    legend: Callable[[Axes], None] | None = None
    """Draws the key to the colours."""
    legend_row: int | None = None
    """The only row that it is about."""


def draw_sheet(strip: Strip) -> Figure:
    """At most `MAX_COLUMNS` times, evenly spread; a single row is drawn larger, in two lines."""
    num_slices = strip.num_frames // strip.slice_frames
    times = range(0, strip.num_frames, strip.slice_frames * -(-num_slices // MAX_COLUMNS))
    alone = len(strip.rows) == 1
    num_columns = -(-len(times) // 2) if alone and len(times) > 1 else len(times)
    num_lines = -(-len(times) // num_columns) if alone else len(strip.rows)
    width = LARGE if alone else SMALL
    height = width * strip.aspect
    above = _height_of_title(strip, num_columns * width) + 1.2 * LINE
    step = height + (GAP + 1.2 * LINE if alone else GAP)
    size = (LABELS + num_columns * (width + GAP) + LEGEND, above + num_lines * step)
    what = "frame" if strip.slice_frames == 1 else "slice"
    with figure_style():
        figure = Figure(figsize=size)
        _draw_title(figure, strip, LABELS, num_columns * width)
        for row, (label, panel) in enumerate(strip.rows.items()):
            for number, time in enumerate(times):
                line, column = divmod(number, num_columns) if alone else (row, number)
                left, top = LABELS + column * (width + GAP), above + line * step
                axes = _axes(figure, left, top, width, height)
                panel(axes, time)
                if line == 0 or alone:
                    axes.set_title(f"{what} {time // strip.slice_frames}", pad=4)
                if column == 0 and not alone:
                    axes.set_ylabel(label, rotation=0, ha="right", va="center", labelpad=8)
        _draw_legend(figure, strip, above, step * num_lines - GAP, step)
    return figure


def draw_film(strip: Strip) -> Frames:
    """All frames `[T, H, W, 3]`: the rows side by side, their names above them."""
    num_columns = min(len(strip.rows), FILM_COLUMNS)
    num_lines = -(-len(strip.rows) // num_columns)
    width = LARGE * {1: 1.5, 2: 1.0, 3: 1.0}.get(len(strip.rows), 0.75)
    height = width * strip.aspect
    names = 1.1 * LINE * max(len(name.splitlines()) for name in strip.rows)
    step = height + names + GAP
    legend = LEGEND if strip.legend else GAP
    above = _height_of_title(strip, num_columns * width) + names
    size = (GAP + num_columns * (width + GAP) + legend, above + num_lines * step - names + LINE)
    film = []
    with figure_style():
        figure = Figure(figsize=size, dpi=FILM_DPI)
        canvas = FigureCanvasAgg(figure)
        _draw_title(figure, strip, GAP, num_columns * width)
        counter = figure.text(GAP / size[0], GAP / size[1], "", va="bottom")
        places = []
        for number in range(len(strip.rows)):
            line, column = divmod(number, num_columns)
            left, top = GAP + column * (width + GAP), above + line * step
            places.append(_axes(figure, left, top, width, height))
        if len(places) > 1:
            for axes, label in zip(places, strip.rows, strict=True):
                axes.set_title(label, pad=4)
        _draw_legend(figure, strip, above, num_lines * step - names, num_lines * step, film=True)
        for time in range(strip.num_frames):
            for axes, panel in zip(places, strip.rows.values(), strict=True):
                # `axes.clear()` would take longer than all the drawing.
                for drawn in (*axes.images, *axes.collections, *axes.patches, *axes.texts):
                    drawn.remove()
                panel(axes, time)
            counter.set_text(f"frame {time}")
            canvas.draw()
            film.append(np.asarray(canvas.buffer_rgba())[..., :3].copy())
    return np.stack(film)


def pictures(frames: Frames) -> Panel:
    """A row that shows frames `[T, H, W, 3]` as they are."""

    def draw(axes: Axes, time: int) -> None:
        axes.imshow(frames[time])

    return draw


def colour_bar(colours: Colormap, highest: float, label: str) -> Callable[[Axes], None]:
    """The legend of a colour map from 0 to `highest`."""

    def draw(axes: Axes) -> None:
        bar_axes = axes.inset_axes((0.1, 0, 0.12, 1))
        figure = axes.get_figure()
        assert figure is not None, "axes are made on a figure"
        bar = figure.colorbar(ScalarMappable(Normalize(0, highest), colours), cax=bar_axes)
        bar.set_label(label)
        bar.outline.set_visible(False)

    return draw


def _axes(figure: Figure, left: float, top: float, width: float, height: float) -> Axes:
    """Bare axes at a place in inches from the upper left corner."""
    across, down = figure.get_size_inches()
    place = (left / across, 1 - (top + height) / down, width / across, height / down)
    axes: Axes = figure.add_axes(place)
    bare(axes)
    return axes


def _draw_legend(
    figure: Figure, strip: Strip, top: float, height: float, step: float, film: bool = False
) -> None:
    """At the right border: beside its row, or beside the middle of all."""
    if strip.legend is None:
        return
    if strip.legend_row is not None and not film:
        top, height = top + strip.legend_row * step, step - GAP
    shown = min(height, MAX_LEGEND_HEIGHT)
    left = figure.get_size_inches()[0] - LEGEND
    axes = _axes(figure, left + 0.05, top + (height - shown) / 2, LEGEND - 0.4, shown)
    axes.patch.set_visible(False)
    strip.legend(axes)


def _height_of_title(strip: Strip, width: float) -> float:
    title, note = _wrapped(strip, width)
    return 0.1 + LINE * (1.3 * len(title) + len(note))


def _draw_title(figure: Figure, strip: Strip, left: float, width: float) -> None:
    """Title and note, centred over what is `width` wide."""
    across, down = figure.get_size_inches()
    title, note = _wrapped(strip, width)
    middle = (left + width / 2) / across
    figure.suptitle("\n".join(title), x=middle, y=1 - 0.1 / down, va="top")
    below = 1 - (0.1 + 1.3 * LINE * len(title)) / down
    figure.text(middle, below, "\n".join(note), ha="center", va="top", color=NOTE_COLOUR)


def _wrapped(strip: Strip, width: float) -> tuple[list[str], list[str]]:
    """The lines of the title and of the note."""
    letters = max(20, int(width * LETTERS_PER_INCH))
    return textwrap.wrap(strip.title, letters), textwrap.wrap(strip.note, int(1.3 * letters))
