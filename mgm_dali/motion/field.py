"""Motion as a field: one vector per 8x8 pixels, and how codec blocks are painted into it.

T frames, H W pixels of the video, h = ceil(H / 8) and w = ceil(W / 8) cells.
"""

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any, cast

import numpy as np
from numpy.typing import NDArray

from mgm_dali.config import CELL_PIXELS

__all__ = [
    "QUARTER_PELS",
    "Grid",
    "MotionField",
    "gather",
    "grid_size",
    "no_motion",
    "nothing",
    "paint",
    "rasterise",
]

QUARTER_PELS = 4
"""Units of a stored vector per pixel."""


@dataclass(frozen=True, eq=False)
class MotionField:
    """The motion of some frames of one video.

    `vectors`: int16 `[T, h, w, 2]`, (dx, dy) in quarter pixels of the source video: where the
    content of a cell moved to minus where it came from, past to present; 0 where not known.
    `valid`: bool `[T]`, False where the frame carries no vectors (I-frames).
    `known`: bool `[T, h, w]`, False where a cell has no vector: everywhere in a frame that is not
    valid, and in the intra-coded blocks of others, which may have moved in any way. If left out,
    all cells of valid frames are known.
    """

    vectors: NDArray[np.int16]
    valid: NDArray[np.bool_]
    known: NDArray[np.bool_] = field(default=cast(Any, None))

    def __post_init__(self) -> None:
        shape = self.vectors.shape
        if len(shape) != 4 or shape[-1] != 2 or self.vectors.dtype != np.int16:
            found = f"{self.vectors.dtype} {list(shape)}"
            raise ValueError(f"MotionField.vectors: expected int16 [T, h, w, 2], found {found}")
        _require_bools("valid", self.valid, shape[:1])
        if cast(Any, self.known) is None:
            everywhere = np.broadcast_to(self.valid[:, None, None], shape[:3]).copy()
            object.__setattr__(self, "known", everywhere)
        _require_bools("known", self.known, shape[:3])

    def __repr__(self) -> str:
        shape = list(self.vectors.shape)
        share = self.known[self.valid].mean() if self.valid.any() else 0.0
        return (
            f"MotionField(vectors=int16 {shape}, valid={int(self.valid.sum())} of {shape[0]}, "
            f"known={share:.0%} of their cells)"
        )

    def pixels(self) -> NDArray[np.float32]:
        """The vectors in pixels, float32 `[T, h, w, 2]`."""
        return self.vectors.astype(np.float32) / np.float32(QUARTER_PELS)


Grid = tuple[NDArray[np.int16], NDArray[np.bool_]]
"""The field of one frame: vectors `[h, w, 2]`, and which cells are known `[h, w]`."""


def grid_size(width: int, height: int) -> tuple[int, int]:
    """Columns and rows of the field of a video of this size: (w, h)."""
    return -(-width // CELL_PIXELS), -(-height // CELL_PIXELS)


def nothing(width: int, height: int) -> Grid:
    """The field of a frame without vectors."""
    columns, rows = grid_size(width, height)
    return np.zeros((rows, columns, 2), dtype=np.int16), np.zeros((rows, columns), dtype=np.bool_)


def no_motion(num_frames: int, width: int, height: int) -> MotionField:
    """A field in which no frame carries vectors."""
    columns, rows = grid_size(width, height)
    vectors = np.zeros((num_frames, rows, columns, 2), dtype=np.int16)
    return MotionField(vectors, np.zeros(num_frames, dtype=np.bool_))


def gather(grids: dict[int, Grid], frames: Sequence[int] | NDArray[np.integer[Any]]) -> MotionField:
    """Puts the fields of single frames into the order asked; a frame that has none is not valid."""
    some_vectors, some_known = next(iter(grids.values()))
    missing = np.zeros_like(some_vectors), np.zeros_like(some_known)
    chosen = [grids.get(int(number), missing) for number in frames]
    known = np.stack([known for _, known in chosen])
    vectors = np.stack([vectors for vectors, _ in chosen])
    return MotionField(vectors, np.asarray(known.any((1, 2)), dtype=np.bool_), known)


def rasterise(
    of_frames: Sequence[NDArray[Any]], width: int, height: int
) -> tuple[NDArray[np.int16], NDArray[np.bool_]]:
    """Paints the codec vectors of T frames: int16 `[T, h, w, 2]`, and which cells are known.

    Several frames at once, because a call of numpy costs as much as what it does for one. Each has
    an array, empty if it carries no vectors, structured with libavcodec's field names.

    A codec's vector points from the block to its reference. So its opposite is the motion since a
    past reference (`source` < 0), and the vector itself the motion towards a future one (`source` >
    0). Where a block has both, the longer is taken: of the two, one is often a placeholder of zero.
    Codecs do not export how many frames away the reference is, so vectors to far references are
    long. What no block covers (intra blocks have no vector) is not known.
    """
    # Their bytes, because numpy copies structures field by field.
    vectors = np.concatenate([one.view(np.uint8) for one in of_frames]).view(of_frames[0].dtype)
    frame_of = np.repeat(np.arange(len(of_frames)), [len(one) for one in of_frames])
    is_future = vectors["source"] > 0
    scale = np.maximum(vectors["motion_scale"], 1).astype(np.int32)
    factor = np.where(is_future, np.int32(QUARTER_PELS), np.int32(-QUARTER_PELS))
    displacement = np.empty((len(vectors), 2), dtype=np.int32)
    for axis, name in enumerate(("motion_x", "motion_y")):
        motion = vectors[name].clip(-_MAX_MOTION, _MAX_MOTION)  # a broken stream knows no bounds
        displacement[:, axis] = motion * factor // scale
    canvas = _Canvas(len(of_frames), width, height)
    if not is_future.any():
        return canvas.colour(canvas.cover(vectors, frame_of), displacement)
    # Past and future are painted apart, as if they were twice as many frames.
    apart = canvas.cover(vectors, frame_of + is_future * len(of_frames), 2 * len(of_frames))
    past_at, future_at = apart.reshape(2, -1)
    along_x, along_y = displacement.T.astype(np.int64)
    length = np.empty(len(vectors) + 1, dtype=np.int64)
    length[0] = -1  # no block: shorter than a vector of 0
    length[1:] = along_x * along_x + along_y * along_y
    longer_at = np.where(length.take(future_at) > length.take(past_at), future_at, past_at)
    return canvas.colour(longer_at, displacement)


def paint(blocks: NDArray[Any], displacement: NDArray[np.int32], width: int, height: int) -> Grid:
    """Gives every cell of a frame the displacement `[N, 2]` of the block that covers it.

    `blocks` (N of them) has `dst_x` and `dst_y` (the block's centre), `w` and `h`: 8 or 16 pixels,
    aligned to 8. What reaches over the right or the lower border of the picture is cut.
    """
    canvas = _Canvas(1, width, height)
    block_at = canvas.cover(blocks, np.zeros(len(blocks), dtype=np.intp))
    vectors, known = canvas.colour(block_at, displacement)
    return vectors[0], known[0]


_CELL_SHIFT = CELL_PIXELS.bit_length() - 1
_MAX_MOTION = 1 << 28


class _Canvas:
    """The cells of T pictures, padded as codecs do: to whole macroblocks, interlaced to pairs."""

    def __init__(self, num_frames: int, width: int, height: int) -> None:
        self.num_frames = num_frames
        self.columns, self.rows = grid_size(width, height)
        self.padded_columns, self.padded_rows = -(-self.columns // 2) * 2, -(-self.rows // 4) * 4

    def cover(
        self, blocks: NDArray[Any], frame_of: NDArray[np.intp], num_frames: int | None = None
    ) -> NDArray[np.int32]:
        """Which block covers each cell: its number + 1, or 0 for none; block n is of `frame_of[n]`.

        A block is at most 16 pixels wide and high, so the cells at its corners are all. A broken
        stream may point outside of the picture: what it says there goes to the border.
        """
        x, y = np.ascontiguousarray(blocks["dst_x"]), np.ascontiguousarray(blocks["dst_y"])
        half_width, half_height = blocks["w"] >> 1, blocks["h"] >> 1
        last_column, last_row = self.padded_columns - 1, self.padded_rows - 1
        left = (x - half_width >> _CELL_SHIFT).clip(0, last_column)
        right = (x + (half_width - 1) >> _CELL_SHIFT).clip(0, last_column)
        top = (y - half_height >> _CELL_SHIFT).clip(0, last_row)
        bottom = (y + (half_height - 1) >> _CELL_SHIFT).clip(0, last_row)
        num_rows = (num_frames or self.num_frames) * self.padded_rows
        block_at = np.zeros(num_rows * self.padded_columns, dtype=np.int32)
        numbers = np.arange(1, len(blocks) + 1, dtype=np.int32)
        first_row = frame_of * self.padded_rows
        for row in (top, bottom):
            first_cell = (first_row + row) * self.padded_columns
            for column in (left, right):
                block_at[first_cell + column] = numbers
        return block_at

    def colour(
        self, block_at: NDArray[np.int32], displacement: NDArray[np.int32]
    ) -> tuple[NDArray[np.int16], NDArray[np.bool_]]:
        """Gives each cell the displacement of the block that covers it, where there is one."""
        colours = np.zeros((len(displacement) + 1, 2), dtype=np.int16)
        limits = np.iinfo(np.int16)  # 8191 pixels
        np.clip(displacement, limits.min, limits.max, out=colours[1:], casting="unsafe")
        at = block_at.reshape(self.num_frames, self.padded_rows, self.padded_columns)
        at = at[:, : self.rows, : self.columns]
        return colours.take(at, axis=0), at != 0


def _require_bools(name: str, found: NDArray[Any], shape: tuple[int, ...]) -> None:
    if found.shape != shape or found.dtype != np.bool_:
        expected, found_is = f"bool {list(shape)}", f"{found.dtype} {list(found.shape)}"
        raise ValueError(f"MotionField.{name}: expected {expected}, found {found_is}")
