"""A window of a picture, and how much around it must be converted to get its pixels exactly.

Chroma has fewer pixels than luma, and is interpolated on the way to RGB: pixels near the edge of a
window need chroma from beyond it.
"""

from typing import NamedTuple

import av

__all__ = ["Window", "surroundings"]

# libswscale interpolates with four taps, and with other ones where there are not four pixels.
_MARGIN_CHROMA_PIXELS = 4


class Window(NamedTuple):
    """A box of whole pixels of a picture as coded; `bottom` and `right` are just outside of it."""

    top: int
    left: int
    bottom: int
    right: int
    picture: tuple[int, int] | None = None
    """(height, width) that the picture must have; None takes any that holds the box."""

    def lies_in(self, other: "Window") -> bool:
        """Whether it has a pixel, and the other has all of them."""
        rows_do = other.top <= self.top < self.bottom <= other.bottom
        return rows_do and other.left <= self.left < self.right <= other.right


def surroundings(window: Window, frame: av.VideoFrame) -> Window:
    """The part of a frame whose RGB has, within the window, the very pixels of the whole's.

    The whole picture where nothing less will do.
    """
    if not frame.format.is_planar:
        # Chroma between the luma is sorted out first, and differently for another width.
        return Window(0, 0, frame.height, frame.width)
    rows, columns = frame.format.chroma_height(8), frame.format.chroma_width(8)
    top, bottom = _span(window.top, window.bottom, frame.height, 8 // rows)
    left, right = _span(window.left, window.right, frame.width, 8 // columns)
    return Window(top, left, bottom, right)


def _span(start: int, stop: int, length: int, pixels_per_chroma: int) -> tuple[int, int]:
    if length % pixels_per_chroma:
        return 0, length  # chroma is stretched by a fraction that no part of the length has
    first = start // pixels_per_chroma - _MARGIN_CHROMA_PIXELS
    behind = -(-stop // pixels_per_chroma) + _MARGIN_CHROMA_PIXELS
    return max(0, first * pixels_per_chroma), min(length, behind * pixels_per_chroma)
