"""Drawings of motion: arrows on the frames, and colours that tell direction and strength.

Letters: T frames, H W pixels, h w cells of 8x8 pixels.
"""

import textwrap
from dataclasses import dataclass
from typing import Any

import numpy as np
from matplotlib.axes import Axes
from matplotlib.colors import Normalize
from numpy.typing import NDArray

from mgm_dali.config import CELL_PIXELS
from mgm_dali.report.strips import Strip, colour_bar, pictures
from mgm_dali.report.style import DIRECTION_COLOURS, MOTION_COLOURS

__all__ = ["MotionShown", "arrow_strip", "direction_colours", "striped", "wheel_strip"]

Motion = NDArray[np.float32]
Mask = NDArray[np.bool_]

STILL_PIXELS = 0.5
STILL_SHARE = 0.12
"""Vectors shorter than this, or than this share of the fastest, get no arrow."""
MAX_ARROWS = 16
"""More arrows than these side by side would hide the frame."""
STILL_GREY = 0.5
"""Halfway between the lightest and the darkest direction."""
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
        """The end of the colour scale; a few wild vectors must not fade all others."""
        moving = self.speed[self.speed > STILL_PIXELS]
        return max(1.0, float(np.percentile(moving, 98))) if moving.size else 1.0

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


def direction_colours(vectors: NDArray[np.floating[Any]], fastest: float) -> NDArray[np.uint8]:
    """`[..., 2]` (dx, dy) as RGB `[..., 3]`: up pale, left blue, down dark, right orange.

    Weak motion is near to grey; `fastest` and more has the full colour.
    """
    dx, dy = np.moveaxis(vectors.astype(np.float64), -1, 0)
    turn = np.arctan2(-dy, dx) / (2 * np.pi) - 0.25  # 0 is up, which is minus y in a picture
    strength = np.minimum(np.hypot(dx, dy) / fastest, 1)[..., None]
    colour = DIRECTION_COLOURS(turn % 1)[..., :3]
    blended: NDArray[np.float64] = STILL_GREY + (colour - STILL_GREY) * strength
    return np.rint(255 * blended).astype(np.uint8)


def striped(colours: NDArray[np.uint8], known: Mask) -> NDArray[np.uint8]:
    """`[T, h, w, 3]` as pixels `[T, 8h, 8w, 3]`, striped black on white where not `known`."""
    colours = colours.repeat(CELL_PIXELS, 1).repeat(CELL_PIXELS, 2)
    known = known.repeat(CELL_PIXELS, 1).repeat(CELL_PIXELS, 2)
    y, x = np.indices(known.shape[1:])
    stripes = np.where((x + y) % CELL_PIXELS < 2, np.uint8(0), np.uint8(255))
    return np.where(known[..., None], colours, stripes[..., None])


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
