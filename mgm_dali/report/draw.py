"""Drawings of clips: masks over the frames, reconstructions beside them, attention on them.

Letters: T frames, H W pixels, t slices, h w patches.
"""

from collections.abc import Callable, Mapping

import numpy as np
from matplotlib.axes import Axes
from matplotlib.patches import Rectangle
from numpy.typing import NDArray

from mgm_dali.clips.overlays import cover_hidden, over_frames, striped
from mgm_dali.report.motion_drawings import MotionShown
from mgm_dali.report.strips import Strip, colour_bar, pictures
from mgm_dali.report.style import MOTION_COLOURS

__all__ = ["attention_strip", "mask_strip", "reconstruction_strip"]

Frames = NDArray[np.uint8]
Mask = NDArray[np.bool_]

NO_VECTORS = "no vectors in this clip: motion-guided masks are simulated motion"
LEAST_HEAT, MOST_HEAT = 0.4, 0.85
"""Share of the heat's colour where there is none, and at its highest; the rest is the frame's."""


def mask_strip(
    frames: Frames, masks: Mapping[str, Mask], motion: MotionShown, title: str, note: str = ""
) -> Strip:
    """What each strategy hides: the frames, how fast they move, and a row for each mask.

    `frames [T, H, W, 3]`, each mask `[t, h, w]` with True = hidden and T a multiple of t. Of a
    slice the largest motion of its frames is shown, which is what masks look at; cells without a
    vector in all its frames are striped.
    """
    slice_frames = len(frames) // len(next(iter(masks.values())))
    speed, known = (
        of_frames.reshape(-1, slice_frames, *of_frames.shape[1:]).max(axis=1)
        for of_frames in (motion.speed, motion.known)
    )
    colours = MOTION_COLOURS(speed / motion.fastest, bytes=True)[..., :3]
    shown = striped(colours, known)

    def draw_speed(axes: Axes, time: int) -> None:
        axes.imshow(shown[time // slice_frames], interpolation="nearest")

    simulated = "" if known.any() else NO_VECTORS
    key = motion.key(stripes=not known.all())
    rows = {"frames": pictures(frames), "motion": draw_speed}
    for name, mask in masks.items():
        label = f"{name.replace('_', ' ')}\n{mask.mean():.0%} hidden"
        rows[label] = pictures(cover_hidden(frames, mask))
    return Strip(
        title=title,
        note="; ".join(filter(None, (motion.title, motion.note, note, simulated))),
        rows=rows,
        num_frames=len(frames),
        aspect=frames.shape[1] / frames.shape[2],
        slice_frames=slice_frames,
        legend=colour_bar(MOTION_COLOURS, motion.fastest, key, motion.exceeds_scale),
        legend_row=1,
    )


def reconstruction_strip(
    original: Frames, masked: Frames, reconstruction: Frames, note: str
) -> Strip:
    """Three rows of frames `[T, H, W, 3]`: the clip, what the model saw of it, what it made."""
    rows = {
        "original": original,
        "seen by\nthe model": masked,
        "reconstruction": reconstruction,
    }
    return Strip(
        title="Reconstruction of what is hidden",
        note=note,
        rows={label: pictures(frames) for label, frames in rows.items()},
        num_frames=len(original),
        aspect=original.shape[1] / original.shape[2],
    )


def attention_strip(
    frames: Frames, weights: NDArray[np.float32], query: tuple[int, int, int], note: str
) -> Strip:
    """Where the token `query` (slice, row, column) looks: the frames, and the heat on them.

    `frames [T, H, W, 3]`, `weights [t, h, w]` with a sum of 1. The heat is in units of what every
    token would have if all had the same.
    """
    t, h, w = weights.shape
    slice_frames = len(frames) // t
    heat = weights * weights.size
    highest = max(2.0, float(np.percentile(heat, 99.5)))
    exceeded = bool(heat.max() > highest)
    heat = over_frames(np.minimum(heat / highest, 1), frames)
    grey = frames.mean(axis=-1, keepdims=True) / 255
    opaque = (LEAST_HEAT + (MOST_HEAT - LEAST_HEAT) * heat)[..., None]
    mixed = opaque * MOTION_COLOURS(heat)[..., :3] + (1 - opaque) * grey
    mixed = np.rint(255 * mixed).astype(np.uint8)
    patch = (frames.shape[1] // h, frames.shape[2] // w)

    def marked(shown: Frames) -> Callable[[Axes, int], None]:
        def draw(axes: Axes, time: int) -> None:
            axes.imshow(shown[time])
            if time // slice_frames == query[0]:
                _mark(axes, query[1] * patch[0], query[2] * patch[1], patch)

        return draw

    return Strip(
        title="Attention of the marked token",
        note=note,
        rows={"frames": marked(frames), "attention": marked(mixed)},
        num_frames=len(frames),
        aspect=frames.shape[1] / frames.shape[2],
        slice_frames=slice_frames,
        legend=colour_bar(MOTION_COLOURS, highest, "attention\n(1: spread evenly)", exceeded),
        legend_row=1,
    )


def _mark(axes: Axes, top: int, left: int, patch: tuple[int, int]) -> None:
    """A white frame in a black one, to be seen on any picture."""
    for colour, width in (("black", 3.0), ("white", 1.5)):
        # Pixels are centred on whole numbers.
        axes.add_patch(
            Rectangle((left - 0.5, top - 0.5), *patch[::-1], fill=False, color=colour, lw=width)
        )
