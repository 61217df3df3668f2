"""Turns decoded frames into RGB exactly as NVIDIA DALI's own CPU decoder does.

DALI always takes BT.601 and centred chroma, whatever the file's tags say, so that one model sees
the same pixels from either decoder. A libavfilter graph with the flags below is bit-identical to
it; PyAV's `to_ndarray("rgb24")` differs by 2.7 levels on average.
"""

from pathlib import Path

import av
import numpy as np
from numpy.typing import NDArray

from mgm_dali.video.filters import filter_chain, forget_colour_tags
from mgm_dali.video.opening import DECODING_ERRORS, VideoError
from mgm_dali.video.window import Window, surroundings

__all__ = ["RgbConverter"]

_SCALE_OPTIONS = "flags=bilinear+full_chroma_int+accurate_rnd:in_color_matrix=bt601"
_Layout = tuple[int, int, str, int]


class RgbConverter:
    """Converts the frames of one clip; its graph is rebuilt only if the format changes."""

    def __init__(self, path: str | Path, window: Window | None = None) -> None:
        """`path` is the video's, to be named in errors; `window` is what is wanted of a frame.

        The pixels of a window are those of the whole frame's RGB, bit for bit.
        """
        self._path = path
        self._window = window
        self._layout: _Layout | None = None
        self._graph = av.filter.Graph()
        self._wanted = (slice(None), slice(None))
        """Rows and columns of what the graph delivers."""

    def __call__(self, frame: av.VideoFrame) -> NDArray[np.uint8]:
        """Gives uint8 `[H, W, 3]`, RGB, of the window if there is one; perhaps a strided view.

        Raises `VideoError` for a format that cannot be had or a window that is not in the frame.
        """
        forget_colour_tags(frame)
        layout = (frame.width, frame.height, frame.format.name, frame.color_range)
        try:
            if layout != self._layout:
                self._prepare(frame)
                self._layout = layout
            self._graph.vpush(frame)
            return np.asarray(self._graph.vpull().to_ndarray(), dtype=np.uint8)[self._wanted]
        except DECODING_ERRORS as error:
            reason = f"its {frame.format.name} pictures cannot be turned into RGB: {error}"
            raise VideoError(self._path, reason) from error

    def _prepare(self, frame: av.VideoFrame) -> None:
        whole = Window(0, 0, frame.height, frame.width)
        window = whole if self._window is None else self._window
        size = f"{frame.width}x{frame.height}"
        if window.picture is not None and window.picture != (frame.height, frame.width):
            height, width = window.picture
            raise VideoError(self._path, f"its pictures are {size} instead of {width}x{height}")
        if not window.lies_in(whole):
            box = f"{window.left},{window.top} to {window.right},{window.bottom}"
            raise VideoError(self._path, f"its pictures are {size}, and do not hold {box}")
        part = surroundings(window, frame)
        filters = _filters(frame)
        if part != whole:
            filters.insert(0, ("crop", _crop_options(part)))
        self._graph = filter_chain(frame, *filters)
        rows = slice(window.top - part.top, window.bottom - part.top)
        self._wanted = rows, slice(window.left - part.left, window.right - part.left)


def _crop_options(part: Window) -> str:
    width, height = part.right - part.left, part.bottom - part.top
    return f"w={width}:h={height}:x={part.left}:y={part.top}:exact=1"


def _filters(frame: av.VideoFrame) -> list[tuple[str, str]]:
    filters = [("scale", _SCALE_OPTIONS), ("format", "pix_fmts=rgb24")]
    if _chroma_is_whole(frame):
        # The same pixels in 0.6 of the time: planes of colours have faster code than packed ones.
        filters[1:1] = [("format", "pix_fmts=gbrp"), ("scale", "")]
    return filters


def _chroma_is_whole(frame: av.VideoFrame) -> bool:
    """Whether there is chroma, every pixel of it shared by as many of luma.

    Asked of the whole frame, whatever part of it is wanted. If not, planes differ by a level from
    packed pixels; and by more where RGB has 16 bits.
    """
    halves_at_most = frame.format.chroma_width(8) >= 4
    is_whole = frame.height % 4 == 0 and (frame.width % 4 == 0 or halves_at_most)
    return is_whole and not frame.format.is_rgb
