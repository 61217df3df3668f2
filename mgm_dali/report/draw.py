"""Drawings of clips: motion vectors on the frames, masks over them, reconstructions beside them.

Every function takes numpy arrays and returns a matplotlib `Figure` of its own, so that nothing is
shared with the caller's figures. Long clips are shown by frames that are evenly spread.

Letters: T frames, H W pixels, h w cells of the motion field or patches of a mask, t slices.
"""

from collections.abc import Mapping
from itertools import chain

import numpy as np
from matplotlib.axes import Axes
from matplotlib.cm import ScalarMappable
from matplotlib.colors import Normalize
from matplotlib.figure import Figure
from numpy.typing import NDArray

from mgm_dali.config import CELL_PIXELS
from mgm_dali.report.style import MOTION_COLOURS, bare, figure_style

__all__ = ["HIDDEN_GREY", "cover_hidden", "draw_masks", "draw_motion", "draw_reconstruction"]

Frames = NDArray[np.uint8]
Motion = NDArray[np.float32]
Mask = NDArray[np.bool_]

HIDDEN_GREY = 128
MAX_COLUMNS = 8
PICTURE_INCHES = 1.15
"""Width of one small picture on paper."""
LABEL_INCHES = 2.2
"""Room for the names of the rows and for the colour bar."""
TITLE_INCHES = 0.7
STILL_PIXELS = 0.5
STILL_SHARE = 0.12
"""Vectors shorter than this, or than this share of the fastest, get no arrow."""
MAX_ARROWS = 16
"""More arrows than these side by side would hide the frame."""


def draw_motion(
    frames: Frames, motion_pixels: Motion, valid: Mask, title: str = "Motion vectors of the codec"
) -> Figure:
    """Frames `[T, H, W, 3]` with an arrow on each cell that moves.

    `motion_pixels` `[T, h, w, 2]` is (dx, dy) of each 8x8 cell in pixels a frame; `valid` `[T]` is
    False for frames without vectors, which are labelled so. Arrows are enlarged, all by one factor,
    and their colour is the length that was measured; where cells are many, the fastest of a few
    neighbours has the arrow.
    """
    shown = _spread(len(frames), MAX_COLUMNS)
    num_columns = min(len(shown), MAX_COLUMNS // 2)
    num_rows = -(-len(shown) // num_columns)
    speed = np.linalg.norm(motion_pixels, axis=-1)
    fastest = _fastest(speed[valid])
    with figure_style():
        figure, axes = _sheet(frames, num_rows, num_columns, title, scale=2.0)
        for place, index in zip(chain.from_iterable(axes), shown, strict=False):
            # Dimmed, or bright arrows would be lost on bright frames.
            place.imshow((0.7 * frames[index]).astype(np.uint8))
            place.set_title(f"frame {index}", pad=4)
            if valid[index]:
                _arrows(place, motion_pixels[index], fastest)
            else:
                _note(place, "no vectors")
        _colour_bar(figure, list(chain.from_iterable(axes)), fastest)
    return figure


def draw_masks(frames: Frames, masks: Mapping[str, Mask], motion_pixels: Motion) -> Figure:
    """What each strategy hides: a row for each, a column for each slice of time.

    `frames` `[T, H, W, 3]`, each mask `[t, h, w]` with True = hidden and T a multiple of t,
    `motion_pixels` `[T, H/8, W/8, 2]`. The first rows are the frames and how fast they move: of a
    slice, the first frame is drawn, and the largest motion of its frames.
    """
    num_slices = len(next(iter(masks.values())))
    slice_frames = len(frames) // num_slices
    first_frames = frames[::slice_frames]
    shown = _spread(num_slices, MAX_COLUMNS)
    speed = np.linalg.norm(motion_pixels, axis=-1)
    speed = speed.reshape(num_slices, slice_frames, *speed.shape[1:]).max(axis=1)
    fastest = _fastest(speed)
    with figure_style():
        figure, axes = _sheet(frames, 2 + len(masks), len(shown), "What is hidden from the model")
        _fill_row(axes[0], first_frames[shown], "frames")
        _name_columns(axes[0], "slice", shown)
        for place, index in zip(axes[1], shown, strict=True):
            place.imshow(
                speed[index], cmap=MOTION_COLOURS, vmin=0, vmax=fastest, interpolation="nearest"
            )
        _name_row(axes[1], "motion")
        for row, (name, mask) in zip(axes[2:], masks.items(), strict=True):
            label = f"{name.replace('_', ' ')}\n{mask.mean():.0%} hidden"
            _fill_row(row, cover_hidden(first_frames, mask)[shown], label)
        _colour_bar(figure, axes[1], fastest)
    return figure


def draw_reconstruction(
    original: Frames, masked: Frames, reconstruction: Frames, title: str
) -> Figure:
    """Three rows of frames `[T, H, W, 3]`: the clip, what the model saw of it, what it made."""
    shown = _spread(len(original), MAX_COLUMNS)
    rows = {
        "original": original,
        "seen by\nthe model": masked,
        "reconstruction": reconstruction,
    }
    with figure_style():
        figure, axes = _sheet(original, len(rows), len(shown), title)
        for row, (label, frames) in zip(axes, rows.items(), strict=True):
            _fill_row(row, frames[shown], label)
        _name_columns(axes[0], "frame", shown)
    return figure


def cover_hidden(frames: Frames, mask: Mask, grey: int = HIDDEN_GREY) -> Frames:
    """Frames `[T, H, W, 3]` with the patches of `mask` `[t, h, w]` (True = hidden) in grey.

    T, H and W are multiples of t, h and w: each token covers its share of frames and pixels.
    """
    hidden = mask
    for axis in range(3):
        hidden = hidden.repeat(frames.shape[axis] // mask.shape[axis], axis)
    return np.where(hidden[..., None], np.uint8(grey), frames)


def _sheet(
    frames: Frames, num_rows: int, num_columns: int, title: str, scale: float = 1.0
) -> tuple[Figure, list[list[Axes]]]:
    """A titled figure of bare axes `[rows, columns]`, sized for pictures shaped like `frames`."""
    width = scale * PICTURE_INCHES
    height = width * frames.shape[1] / frames.shape[2]
    size = (LABEL_INCHES + num_columns * width, TITLE_INCHES + num_rows * (height + 0.1))
    figure = Figure(figsize=size, layout="compressed")
    figure.suptitle(title)
    axes: list[list[Axes]] = figure.subplots(num_rows, num_columns, squeeze=False).tolist()
    for place in chain.from_iterable(axes):
        bare(place)
    return figure, axes


def _fill_row(row: list[Axes], frames: Frames, label: str) -> None:
    for place, frame in zip(row, frames, strict=True):
        place.imshow(frame)
    _name_row(row, label)


def _name_row(row: list[Axes], label: str) -> None:
    row[0].set_ylabel(label, rotation=0, ha="right", va="center", labelpad=8)


def _name_columns(row: list[Axes], what: str, indices: NDArray[np.intp]) -> None:
    for place, index in zip(row, indices, strict=True):
        place.set_title(f"{what} {index}", pad=4)


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


def _note(axes: Axes, text: str) -> None:
    box = {"facecolor": "black", "alpha": 0.6, "edgecolor": "none", "boxstyle": "round"}
    axes.text(
        0.5, 0.5, text, color="white", bbox=box, ha="center", va="center", transform=axes.transAxes
    )


def _colour_bar(figure: Figure, axes: list[Axes], fastest: float) -> None:
    colours = ScalarMappable(Normalize(0, fastest), MOTION_COLOURS)
    bar = figure.colorbar(colours, ax=axes, aspect=16, pad=0.02)
    bar.set_label("pixels a frame")
    bar.outline.set_visible(False)


def _spread(count: int, most: int) -> NDArray[np.intp]:
    """At most `most` of `count` indices, evenly spread from the first to the last."""
    return np.unique(np.linspace(0, count - 1, min(count, most)).round().astype(np.intp))


def _fastest(speed: NDArray[np.float32]) -> float:
    """The end of the colour scale; a few wild vectors must not fade all others."""
    moving = speed[speed > STILL_PIXELS]
    return max(1.0, float(np.percentile(moving, 98))) if moving.size else 1.0
