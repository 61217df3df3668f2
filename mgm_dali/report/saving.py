"""Figures and animations become files, whole or not at all.

Letters: T frames, H W pixels.
"""

import io
from fractions import Fraction
from pathlib import Path

import av
import numpy as np
from matplotlib.figure import Figure
from numpy.typing import NDArray
from PIL import Image

from mgm_dali.files import write_whole

__all__ = ["save_animation", "save_figure"]

Frames = NDArray[np.uint8]

SMALLEST_SIDE_PIXELS = 256
"""Smaller frames are enlarged by repeating pixels, which a browser would blur instead."""


def save_figure(figure: Figure, path: str | Path, dpi: int = 150) -> None:
    """Writes the figure as PNG; `dpi` is in pixels per inch."""
    png = io.BytesIO()
    figure.savefig(
        png,
        format="png",
        dpi=dpi,
        bbox_inches="tight",
        pad_inches=0.12,
        metadata={"Software": None},
    )
    write_whole(Path(path), png.getvalue())


def save_animation(frames: Frames, path: str | Path, fps: float = 8.0) -> None:
    """Writes frames `[T, H, W, 3]` uint8 RGB as a GIF that repeats or, by the suffix, as an MP4."""
    writers = {".gif": _as_gif, ".mp4": _as_mp4}
    suffix = Path(path).suffix.lower()
    if suffix not in writers:
        raise ValueError(f"{path}: expected one of {', '.join(writers)}")
    times = max(1, -(-SMALLEST_SIDE_PIXELS // min(frames.shape[1:3])))
    enlarged = frames.repeat(times, axis=1).repeat(times, axis=2)
    write_whole(Path(path), writers[suffix](enlarged, fps))


def _as_gif(frames: Frames, fps: float) -> bytes:
    # One palette for all frames, or still areas flicker.
    stacked = Image.fromarray(frames.reshape(-1, frames.shape[2], 3))
    palette = stacked.quantize(
        256, Image.Quantize.FASTOCTREE
    )  # keeps white white, and fades smooth
    pictures = [
        Image.fromarray(frame).quantize(palette=palette, dither=Image.Dither.NONE)
        for frame in frames
    ]
    gif = io.BytesIO()
    first, *rest = pictures
    duration = round(1000 / fps)
    first.save(gif, "GIF", save_all=True, append_images=rest, duration=duration, loop=0)
    return gif.getvalue()


def _as_mp4(frames: Frames, fps: float) -> bytes:
    # yuv420p, which every browser plays, wants even sides.
    even = np.pad(frames, ((0, 0), *((0, side % 2) for side in frames.shape[1:3]), (0, 0)), "edge")
    coded = io.BytesIO()
    with av.open(coded, "w", format="mp4") as container:
        rate = Fraction(fps).limit_denominator(1000)
        stream = container.add_stream("libx264", rate, {"crf": "16"})
        stream.height, stream.width = even.shape[1:3]
        stream.pix_fmt = "yuv420p"
        for frame in even:
            container.mux(stream.encode(av.VideoFrame.from_ndarray(frame, format="rgb24")))
        container.mux(stream.encode(None))
    return coded.getvalue()
