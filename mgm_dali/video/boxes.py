"""Bounding boxes in the frames of videos: a CSV, checked against a manifest line by line.

    path,frame,x0,y0,x1,y1
    fight/fi001.mp4,12,40.5,31,121,200
    fight/fi001.mp4,12,300,10,340,90           another one in the same frame

Paths are relative to the CSV's folder or absolute. Frames count from 0. Coordinates are pixels of
the video as coded, from its upper left corner; x1 and y1 are the first that are outside.

M boxes of all videos, N boxes of one.
"""

import csv
import os
from array import array
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from mgm_dali.errors import UserError
from mgm_dali.files import require_file
from mgm_dali.video.annotations import finite_number
from mgm_dali.video.manifest import Manifest, Video

__all__ = ["Boxes", "VideoBoxes", "read_boxes"]

COLUMNS = ("path", "frame", "x0", "y0", "x1", "y1")


@dataclass(frozen=True, eq=False)
class VideoBoxes:
    """The boxes of one video, by frame."""

    frames: NDArray[np.int64]
    """`[N]`, rising; repeated where a frame has several boxes."""
    corners: NDArray[np.float64]
    """`[N, 4]`: x0, y0, x1, y1, inside the picture."""


@dataclass(frozen=True, eq=False)
class Boxes:
    """The boxes of a manifest's videos, and what was done to the lines of the CSV."""

    rows: NDArray[np.int64]
    """`[M]` rows of the manifest, rising."""
    frames: NDArray[np.int64]
    """`[M]`, rising within a row."""
    corners: NDArray[np.float64]
    """`[M, 4]`"""
    clipped: int
    """Boxes that reached over the border of the picture, and were cut there."""
    outside: int
    """Boxes of which nothing is in the picture; they are left out."""
    unlisted: int
    """Boxes of videos that are not in the manifest; they are left out."""

    def of_videos(self) -> dict[int, VideoBoxes]:
        """By the row of the manifest; videos without a box are missing."""
        rows, starts = np.unique(self.rows, return_index=True)
        ends = [*starts[1:].tolist(), len(self.rows)]
        return {
            row: VideoBoxes(self.frames[start:end], self.corners[start:end])
            for row, start, end in zip(rows.tolist(), starts.tolist(), ends, strict=True)
        }


def read_boxes(path: str | Path, manifest: Manifest) -> Boxes:
    """Reads the boxes of a manifest's videos.

    Raises `UserError` naming file and line if the file is missing, lacks a column, holds what is
    not a number, a box without an area, or a frame that the video does not have; and if none of its
    boxes is in a picture of the manifest.
    """
    path = Path(path)
    table = _Table(path, manifest)
    try:
        require_file(path)
        # As in a manifest: names that are not UTF-8 pass unharmed, and Excel writes a mark.
        with path.open(encoding="utf-8-sig", errors="surrogateescape", newline="") as file:
            reader = csv.reader(file)
            places = _places_of_columns(path, next(reader, []))
            for fields in reader:
                if fields:
                    table.append(reader.line_num, fields, places)
    except FileNotFoundError:
        raise UserError(f"{path}: no such file; expected a CSV of {','.join(COLUMNS)}") from None
    except (OSError, csv.Error) as error:
        raise UserError(f"{path}: cannot be read as a CSV of boxes: {error}") from None
    if not table.rows:
        raise UserError(
            f"{path}: none of its boxes is in a picture of {manifest.path}: {table.unlisted} are "
            f"of videos not listed there, {table.outside} outside the picture; paths are "
            "relative to the CSV's folder"
        )
    return table.boxes()


class _Table:
    """Lines as they are read, packed at once: data sets have millions of boxes."""

    def __init__(self, path: Path, manifest: Manifest) -> None:
        self.path = path
        self.manifest = manifest
        self.row_of = {_plain(video.path): row for row, video in enumerate(manifest)}
        self.rows = array("q")
        self.frames = array("q")
        self.corners = array("d")
        self.clipped = self.outside = self.unlisted = 0
        self._last: tuple[str, Video | None, int] = ("", None, -1)

    def append(self, line: int, fields: list[str], places: list[int]) -> None:
        where = f"{self.path}:{line}"
        if len(fields) <= max(places):
            raise UserError(f"{where}: has {len(fields)} fields, the first line has more")
        name, frame_text, *texts = (fields[place] for place in places)
        frame = _frame(where, frame_text)
        x0, y0, x1, y1 = (
            finite_number(where, name, text, "a number of pixels")
            for name, text in zip(COLUMNS[2:], texts, strict=True)
        )
        for axis, low, high in (("x", x0, x1), ("y", y0, y1)):
            if low >= high:
                raise UserError(
                    f"{where}: {axis}0 is {low:g} and {axis}1 is {high:g}, expected "
                    f"{axis}0 < {axis}1: corners, not a corner and a size"
                )
        video, row = self._video(where, name)
        if video is None:
            self.unlisted += 1
            return
        if frame >= video.num_frames:
            raise UserError(
                f"{where}: frame is {frame}, but {video.path} has {video.num_frames} frames, "
                "counted from 0"
            )
        inside = max(x0, 0.0), max(y0, 0.0), min(x1, video.width), min(y1, video.height)
        if inside[0] >= inside[2] or inside[1] >= inside[3]:
            self.outside += 1
            return
        self.clipped += inside != (x0, y0, x1, y1)
        self.rows.append(row)
        self.frames.append(frame)
        self.corners.extend(inside)

    def boxes(self) -> Boxes:
        rows, frames = np.array(self.rows, np.int64), np.array(self.frames, np.int64)
        order = np.lexsort((frames, rows))
        corners = np.array(self.corners, np.float64).reshape(-1, 4)
        counts = self.clipped, self.outside, self.unlisted
        return Boxes(rows[order], frames[order], corners[order], *counts)

    def _video(self, where: str, name: str) -> tuple[Video | None, int]:
        if not name:
            raise UserError(f"{where}: the path is empty")
        if name != self._last[0]:  # the boxes of a video stand together
            row = self.row_of.get(_plain(self.path.parent / name), -1)
            self._last = name, self.manifest[row] if row >= 0 else None, row
        return self._last[1:]


def _plain(path: Path) -> str:
    """The same for two ways to write one path."""
    return os.path.abspath(path)  # noqa: PTH100 - Path.absolute() leaves `..` where it is


def _places_of_columns(path: Path, header: list[str]) -> list[int]:
    names = [name.strip() for name in header]
    lacking = [name for name in COLUMNS if name not in names]
    if lacking:
        raise UserError(
            f"{path}:1: lacks {', '.join(lacking)}; expected a first line of {','.join(COLUMNS)}"
        )
    return [names.index(name) for name in COLUMNS]


def _frame(where: str, text: str) -> int:
    try:
        if (frame := int(text)) >= 0:
            return frame
    except ValueError:
        pass
    raise UserError(f"{where}: frame is {text[:50]!r}, expected a whole number of at least 0")
