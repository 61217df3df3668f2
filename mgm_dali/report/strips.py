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
    what = "frame" if strip.slice_frames == 1 else "slice"
    alone = len(strip.rows) == 1
    page = _Page(
        strip,
        num_columns=-(-len(times) // 2) if alone else len(times),
        num_pictures=len(times) * len(strip.rows),
        width=LARGE if alone else SMALL,
        names=1.2 * LINE if alone else 0.0,
        left=0.0 if alone else LABELS,
    )
    with figure_style():
        figure = page.figure(legend_row=strip.legend_row)
        for row, (label, panel) in enumerate(strip.rows.items()):
            for column, time in enumerate(times):
                axes = page.axes(figure, row * len(times) + column)
                panel(axes, time)
                if row == 0:
                    axes.set_title(f"{what} {time // strip.slice_frames}", pad=4)
                if column == 0 and not alone:
                    axes.set_ylabel(label, rotation=0, ha="right", va="center", labelpad=8)
    return figure


def draw_film(strip: Strip) -> Frames:
    """All frames `[T, H, W, 3]`: the rows side by side, their names above them."""
    count = len(strip.rows)
    num_lines = -(-count // FILM_COLUMNS)
    page = _Page(
        strip,
        num_columns=-(-count // num_lines),
        num_pictures=count,
        width=LARGE * {1: 1.5, 2: 1.0, 3: 1.0}.get(count, 0.75),
        names=1.1 * LINE * max(len(name.splitlines()) for name in strip.rows),
        left=GAP,
    )
    film = []
    with figure_style():
        figure = page.figure()
        canvas = FigureCanvasAgg(figure)
        places = [page.axes(figure, number) for number in range(count)]
        if count > 1:
            for axes, label in zip(places, strip.rows, strict=True):
                axes.set_title(label, pad=4)
        counter = figure.text(0.01, 0.01, "", va="bottom")
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


def colour_bar(
    colours: Colormap, highest: float, label: str, exceeded: bool
) -> Callable[[Axes], None]:
    """The legend of a colour map from 0 to `highest`, with a tip where values are `exceeded`."""

    def draw(axes: Axes) -> None:
        bar_axes = axes.inset_axes((0.1, 0, 0.12, 1))
        figure = axes.get_figure()
        assert figure is not None, "axes are made on a figure"
        scale = ScalarMappable(Normalize(0, highest), colours)
        bar = figure.colorbar(scale, cax=bar_axes, extend="max" if exceeded else "neither")
        bar.set_label(label)
        bar.outline.set_visible(False)

    return draw


@dataclass(frozen=True)
class _Page:
    """Where everything is, in inches: title and note, lines of pictures, the legend beside them."""

    strip: Strip
    num_columns: int
    num_pictures: int
    width: float
    """Of a picture."""
    names: float
    """Height of the names above each line; the first line always has room for one."""
    left: float
    """Room for the names of the rows."""

    @property
    def height(self) -> float:
        return self.width * self.strip.aspect

    @property
    def step(self) -> float:
        """From line to line."""
        return self.height + self.names + GAP

    @property
    def right_of_pictures(self) -> float:
        return self.left + self.num_columns * (self.width + GAP)

    @property
    def below_title(self) -> float:
        title, note = self._title_and_note()
        return 0.1 + LINE * (1.3 * len(title) + len(note))

    @property
    def above(self) -> float:
        """Where the first line of pictures begins."""
        return self.below_title + max(self.names, 1.2 * LINE)

    def figure(self, legend_row: int | None = None) -> Figure:
        """A figure with its title, its note and its legend."""
        num_lines = -(-self.num_pictures // self.num_columns)
        bottom = self.above + num_lines * self.step - self.names
        across = self.right_of_pictures + (LEGEND if self.strip.legend else 0)
        down = bottom + LINE
        figure = Figure(figsize=(across, down), dpi=FILM_DPI)
        title, note = self._title_and_note()
        middle = (self.left + self.right_of_pictures) / 2 / across
        figure.suptitle("\n".join(title), x=middle, y=1 - 0.1 / down, va="top")
        below = 1 - (0.1 + 1.3 * LINE * len(title)) / down
        figure.text(middle, below, "\n".join(note), ha="center", va="top", color=NOTE_COLOUR)
        if self.strip.legend is not None:
            top, height = self.above, bottom - self.above - GAP
            if legend_row is not None:
                top, height = self.above + legend_row * self.step, self.height
            shown = min(height, MAX_LEGEND_HEIGHT)
            place = (self.right_of_pictures + 0.15, top + (height - shown) / 2)
            axes = _axes(figure, place, LEGEND - 0.4, shown)
            axes.patch.set_visible(False)
            self.strip.legend(axes)
        return figure

    def axes(self, figure: Figure, number: int) -> Axes:
        """The place of a picture, counted line by line."""
        line, column = divmod(number, self.num_columns)
        place = (self.left + column * (self.width + GAP), self.above + line * self.step)
        return _axes(figure, place, self.width, self.height)

    def _title_and_note(self) -> tuple[list[str], list[str]]:
        """Their lines."""
        letters = max(20, int((self.right_of_pictures - self.left) * LETTERS_PER_INCH))
        note = textwrap.wrap(self.strip.note, int(1.3 * letters))
        return textwrap.wrap(self.strip.title, letters), note


def _axes(figure: Figure, place: tuple[float, float], width: float, height: float) -> Axes:
    """Bare axes at a place (left, top) in inches from the upper left corner."""
    (left, top), (across, down) = place, figure.get_size_inches()
    axes: Axes = figure.add_axes(
        (left / across, 1 - (top + height) / down, width / across, height / down)
    )
    bare(axes)
    return axes
