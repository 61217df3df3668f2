"""Drawings of motion: arrows on the frames, and colours that tell direction and strength.

Letters: T frames, H W pixels, h w cells of 8x8 pixels.
"""

import textwrap
from dataclasses import dataclass

import numpy as np
from matplotlib.axes import Axes
from matplotlib.colors import Normalize
from numpy.typing import NDArray

from mgm_dali.clips.overlays import STILL_PIXELS, direction_colours, fastest_shown, striped
from mgm_dali.config import CELL_PIXELS
from mgm_dali.report.strips import Strip, colour_bar, pictures
from mgm_dali.report.style import MOTION_COLOURS

__all__ = ["MotionShown", "arrow_strip", "wheel_strip"]

Motion = NDArray[np.float32]
Mask = NDArray[np.bool_]

STILL_SHARE = 0.12
"""Vectors shorter than this share of the fastest get no arrow, as those that are no motion."""
MAX_ARROWS = 16
"""More arrows than these side by side would hide the frame."""
WHEEL_PIXELS = 256
LEGEND_LETTERS = 20
"""In a line of the words beside a colour scale."""


@dataclass(frozen=True)
class MotionShown:
    """The motion of a clip, and the words for it."""

    vectors: Motion
    """`[T, h, w, 2]` (dx, dy) of each 8x8 cell."""
    known: Mask
    """`[T, h, w]`, False where a cell has no vector."""
    title: str = "Motion vectors"
    """Where they come from."""
    note: str = ""
    """What was done to them."""
    unit: str = "pixels a frame of the video"

    @property
    def valid(self) -> Mask:
        """`[T]`, False for frames without vectors."""
        return np.asarray(self.known.any((1, 2)))

    @property
    def speed(self) -> Motion:
        """Length of each vector `[T, h, w]`; 0 where there is none."""
        length: Motion = np.linalg.norm(self.vectors, axis=-1) * self.known
        return length

    @property
    def fastest(self) -> float:
        """The end of the colour scale."""
        return fastest_shown(self.speed)

    @property
    def exceeds_scale(self) -> bool:
        """Whether some are faster than `fastest`."""
        return bool(self.speed.max() > self.fastest)

    def key(self, *, stripes: bool) -> str:
        """The words beside a colour scale; `stripes` tells whether the drawing has any."""
        unit = textwrap.fill(self.unit, LEGEND_LETTERS)
        return f"{unit}\n(striped: no vector)" if stripes else unit


def arrow_strip(frames: NDArray[np.uint8], motion: MotionShown) -> Strip:
    """Frames `[T, H, W, 3]` with an arrow on each cell that moves.

    Arrows are scaled, all by one factor, and their colour is the length that was measured; where
    cells are many, the fastest of a few neighbours has the arrow.
    """
    fastest, valid = motion.fastest, motion.valid

    def draw(axes: Axes, time: int) -> None:
        # Dimmed, or bright arrows would be lost on bright frames.
        axes.imshow((0.7 * frames[time]).astype(np.uint8))
        if valid[time]:
            _arrows(axes, motion.vectors[time] * motion.known[time][..., None], fastest)
        else:
            _note_that_none(axes)

    return Strip(
        title=motion.title,
        note=motion.note,
        rows={"motion": draw},
        num_frames=len(frames),
        aspect=frames.shape[1] / frames.shape[2],
        legend=colour_bar(MOTION_COLOURS, fastest, motion.key(stripes=False), motion.exceeds_scale),
    )


def wheel_strip(frames: NDArray[np.uint8], motion: MotionShown) -> Strip:
    """Frames `[T, H, W, 3]`, and below them each cell's direction and strength as a colour.

    Cells without a vector are striped.
    """
    fastest, valid = motion.fastest, motion.valid
    colours = striped(direction_colours(motion.vectors, fastest), motion.known)
    key = motion.key(stripes=not motion.known.all())

    def draw(axes: Axes, time: int) -> None:
        axes.imshow(colours[time])
        if not valid[time]:
            _note_that_none(axes)

    def wheel(axes: Axes) -> None:
        _draw_wheel(axes, fastest, key, motion.exceeds_scale)

    return Strip(
        title=motion.title,
        note=motion.note,
        rows={"frames": pictures(frames), "direction\nand strength": draw},
        num_frames=len(frames),
        aspect=frames.shape[1] / frames.shape[2],
        legend=wheel,
    )


def _draw_wheel(axes: Axes, fastest: float, key: str, exceeded: bool) -> None:
    """All directions around, all strengths outwards up to `fastest`, or more if `exceeded`."""
    side = (np.arange(WHEEL_PIXELS) + 0.5) * 2 / WHEEL_PIXELS - 1
    place = np.stack(np.meshgrid(side, side), axis=-1) * fastest
    outside = np.linalg.norm(place, axis=-1) > fastest
    colours = np.dstack((direction_colours(place, fastest), np.where(outside, 0, 255)))
    axes.imshow(colours.astype(np.uint8), extent=(-fastest, fastest, fastest, -fastest))
    rim = f"{'>= ' if exceeded else ''}{fastest:.{0 if fastest >= 10 else 1}f}"
    axes.set_xticks((0, fastest), ("0", rim))
    axes.tick_params(length=3)
    axes.set_xlabel(key, fontsize="small")
    axes.set_title("moves towards", pad=4)
    axes.set_anchor((0.5, 0.65))  # the key below is longer than the title above


def _arrows(axes: Axes, motion: Motion, fastest: float) -> None:
    cells = -(-motion.shape[1] // MAX_ARROWS)
    x, y, vector = _fastest_of_neighbours(motion, cells)
    speed = np.linalg.norm(vector, axis=-1)
    moves = speed > max(STILL_PIXELS, STILL_SHARE * fastest)
    axes.quiver(
        x[moves],
        y[moves],
        *vector[moves].T,
        speed[moves],
        cmap=MOTION_COLOURS,
        norm=Normalize(0, fastest),
        angles="xy",
        scale_units="xy",
        scale=fastest / (1.5 * cells * CELL_PIXELS),  # the fastest arrow is 1.5 places long
        pivot="middle",
        width=0.014,
        edgecolor="black",
        linewidth=0.3,
    )


def _fastest_of_neighbours(
    motion: Motion, cells: int
) -> tuple[NDArray[np.float64], NDArray[np.float64], Motion]:
    """Centre x, y `[K]` in pixels and fastest vector `[K, 2]` of each square of cells."""
    height, width = (-(-side // cells) for side in motion.shape[:2])
    pad = ((0, height * cells - motion.shape[0]), (0, width * cells - motion.shape[1]), (0, 0))
    squares = np.pad(motion, pad).reshape(height, cells, width, cells, 2)
    squares = squares.swapaxes(1, 2).reshape(height * width, cells * cells, 2)
    fastest = np.linalg.norm(squares, axis=-1).argmax(axis=1)
    y, x = (np.indices((height, width)).reshape(2, -1) + 0.5) * cells * CELL_PIXELS
    return x, y, squares[np.arange(len(squares)), fastest]


def _note_that_none(axes: Axes) -> None:
    box = {"facecolor": "black", "alpha": 0.6, "edgecolor": "none", "boxstyle": "round"}
    place = axes.transAxes
    axes.text(0.5, 0.5, "no vectors", color="white", bbox=box, ha="center", transform=place)
