"""Masks and motion as pixels, in numpy alone: what figures and the pictures of a run share.

Letters: T frames, H W pixels, t slices, h w patches or, of motion, cells of 8x8 pixels.
"""

from typing import Any

import numpy as np
from numpy.typing import NDArray

from mgm_dali.config import CELL_PIXELS

__all__ = [
    "HIDDEN_GREY",
    "STILL_PIXELS",
    "cover_hidden",
    "direction_colours",
    "fastest_shown",
    "over_frames",
    "striped",
]

Frames = NDArray[np.uint8]
Mask = NDArray[np.bool_]

HIDDEN_GREY = 128
STILL_PIXELS = 0.5
"""Shorter vectors are no motion."""
STILL_GREY = 0.5
"""Halfway between the lightest and the darkest direction."""
DIRECTION_COLOURS = (
    *("#f7f2e4", "#9dc3e6", "#3a7fd0", "#1f3a78"),
    *("#15101f", "#70300f", "#d9701f", "#f0bf8c", "#f7f2e4"),
)
"""Once around: pale, blue, dark, orange, pale.

One pair of opposites differs in lightness and the other from blue to orange, which all three kinds
of colour-blind readers see: eight directions stay further apart for them than those of matplotlib's
`twilight`. The limit: without any colour, as in a grey print, left and right look the same.
"""


def cover_hidden(frames: Frames, mask: Mask, grey: int = HIDDEN_GREY) -> Frames:
    """Frames `[T, H, W, 3]` with the patches of `mask` `[t, h, w]` (True = hidden) in grey.

    T, H and W are multiples of t, h and w: each token covers its share of frames and pixels.
    """
    return np.where(over_frames(mask[..., None], frames), np.uint8(grey), frames)


def over_frames(values: NDArray[Any], frames: Frames) -> NDArray[Any]:
    """`[t, h, w, ...]` repeated to the frames' `[T, H, W, ...]`."""
    for axis in range(3):
        values = values.repeat(frames.shape[axis] // values.shape[axis], axis)
    return values


def fastest_shown(speed: NDArray[np.float32]) -> float:
    """The end of the scale for these speeds; a few wild vectors must not fade all others."""
    moving = speed[speed > STILL_PIXELS]
    return max(1.0, float(np.percentile(moving, 98))) if moving.size else 1.0


def direction_colours(vectors: NDArray[np.floating[Any]], fastest: float) -> Frames:
    """`[..., 2]` (dx, dy) as RGB `[..., 3]`: up pale, left blue, down dark, right orange.

    Weak motion is near to grey; `fastest` and more has the full colour.
    """
    dx, dy = np.moveaxis(vectors.astype(np.float64), -1, 0)
    turn = np.arctan2(-dy, dx) / (2 * np.pi) - 0.25  # 0 is up, which is minus y in a picture
    strength = np.minimum(np.hypot(dx, dy) / fastest, 1)[..., None]
    rgb = np.array([tuple(bytes.fromhex(colour[1:])) for colour in DIRECTION_COLOURS]) / 255
    around = np.linspace(0, 1, len(rgb))
    colour = np.stack([np.interp(turn % 1, around, channel) for channel in rgb.T], axis=-1)
    blended: NDArray[np.float64] = STILL_GREY + (colour - STILL_GREY) * strength
    return np.rint(255 * blended).astype(np.uint8)


def striped(colours: Frames, known: Mask) -> Frames:
    """`[T, h, w, 3]` as pixels `[T, 8h, 8w, 3]`, striped black on white where not `known`."""
    colours = colours.repeat(CELL_PIXELS, 1).repeat(CELL_PIXELS, 2)
    known = known.repeat(CELL_PIXELS, 1).repeat(CELL_PIXELS, 2)
    y, x = np.indices(known.shape[1:])
    stripes = np.where((x + y) % CELL_PIXELS < 2, np.uint8(0), np.uint8(255))
    return np.where(known[..., None], colours, stripes[..., None])
