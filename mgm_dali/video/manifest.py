"""The list of videos: a CSV for people, columns of numbers for the program.

    path,label,num_frames,fps,width,height,codec,duration_seconds
    fight/fi001.mp4,0,53,25.0,480,360,h264,2.12

Paths are relative to the manifest's folder or absolute; labels may be empty. The names of the
classes stand in `<stem>.classes.txt`, one a line. In memory a manifest of ten million rows is a
dozen arrays, not ten million objects. Those of a large one are mapped from a file beside it
(`kept_columns.py`), so that all processes of a machine share them, and pickle none.
"""

import csv
import os
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any, SupportsIndex, TextIO

import numpy as np
from numpy.typing import NDArray

from mgm_dali.errors import UserError
from mgm_dali.files import whole_file
from mgm_dali.video.kept_columns import (
    KeptColumns,
    checksum_of_columns,
    checksum_of_csv,
    kept_columns,
    kept_path,
    map_columns,
)
from mgm_dali.video.manifest_csv import CSV_COLUMNS, ESCAPED, Columns, read_columns

__all__ = ["Manifest", "Video", "read_manifest", "write_manifest"]

KEPT_FROM_BYTES = 8 << 20
"""About 100,000 rows: smaller lists are read in a moment, and nothing is kept beside them."""


@dataclass(frozen=True)
class Video:
    """One row of a manifest."""

    path: Path
    """Absolute, or relative to the current folder if the manifest's own path is."""
    label: int | None
    num_frames: int
    fps: float
    width: int
    """Pixels as coded, before any rotation tag."""
    height: int
    codec: str
    """libavcodec's name, such as h264."""
    duration_seconds: float
    keyframe: int | None = None
    """The frame that clips of this row lie around; not in the CSV."""


@dataclass(frozen=True, eq=False)
class Manifest:
    """N videos in columns; `manifest[row]` is one `Video`."""

    path: Path
    """The CSV file."""
    class_names: tuple[str, ...]
    """Empty if the labels have no names."""
    labels: NDArray[np.int64]
    """`[N]`, -1 where there is none."""
    num_frames: NDArray[np.int64]
    fps: NDArray[np.float64]
    widths: NDArray[np.int32]
    heights: NDArray[np.int32]
    codecs: NDArray[np.int16]
    """`[N]`, places in `codec_names`."""
    codec_names: tuple[str, ...]
    durations_seconds: NDArray[np.float64]
    path_bytes: NDArray[np.uint8]
    """All paths as written in the CSV, one behind the other."""
    path_ends: NDArray[np.int64]
    """`[N]`, where each path ends in `path_bytes`."""
    keyframes: NDArray[np.int64] | None = None
    """`[N]`, where clips lie around given frames (`mgm_dali.clips.keyframes`)."""
    kept: KeptColumns | None = field(default=None, init=False)
    """The file that the columns are mapped from; a manifest made of others has none."""

    def __len__(self) -> int:
        return len(self.labels)

    def __iter__(self) -> Iterator[Video]:
        return (self[row] for row in range(len(self)))

    def __getitem__(self, row: int) -> Video:
        row = range(len(self))[row]
        start = self.path_ends[row - 1] if row else 0
        name = self.path_bytes[start : self.path_ends[row]].tobytes()
        label = int(self.labels[row])
        return Video(
            path=self.path.parent / name.decode(errors=ESCAPED),
            label=None if label < 0 else label,
            num_frames=int(self.num_frames[row]),
            fps=float(self.fps[row]),
            width=int(self.widths[row]),
            height=int(self.heights[row]),
            codec=self.codec_names[self.codecs[row]],
            duration_seconds=float(self.durations_seconds[row]),
            keyframe=None if self.keyframes is None else int(self.keyframes[row]),
        )

    def selected(self, rows: NDArray[np.int64]) -> "Manifest":
        """These rows alone, in this order; labels keep their numbers."""
        starts = np.concatenate(([0], self.path_ends[:-1]))[rows]
        lengths = self.path_ends[rows] - starts
        ends = np.cumsum(lengths)
        places = np.arange(lengths.sum()) + np.repeat(starts - (ends - lengths), lengths)
        columns = ("labels", "num_frames", "fps", "widths", "heights", "codecs")
        return replace(
            self,
            **{name: getattr(self, name)[rows] for name in (*columns, "durations_seconds")},
            path_bytes=self.path_bytes[places],
            path_ends=ends,
            keyframes=None if self.keyframes is None else self.keyframes[rows],
        )

    def checksum(self) -> str:
        """Of the videos and their row, whatever their labels: 64 bits in hexadecimal."""
        if self.kept is not None:
            return self.kept.facts.videos_checksum
        columns = (self.path_bytes, self.path_ends, self.num_frames, self.fps)
        of_frames = () if self.keyframes is None else (self.keyframes,)
        return checksum_of_columns(*columns, *of_frames)

    def csv_checksum(self) -> str:
        """SHA-256 of the CSV, in hexadecimal."""
        if self.kept is not None:
            return self.kept.facts.csv_checksum
        return checksum_of_csv(self.path)

    def __reduce_ex__(self, protocol: SupportsIndex) -> str | tuple[Any, ...]:
        """Mapped columns do not travel: whoever unpickles maps them as well."""
        if self.kept is None:
            return super().__reduce_ex__(protocol)
        if map_columns(self.path, self.kept.identity) is None:  # the CSV is another by now
            return replace(self).__reduce_ex__(protocol)
        return _mapped_again, (self.path, self.class_names, self.kept.identity)

    def __repr__(self) -> str:
        return f"Manifest({self.path}, {len(self)} videos, {len(self.class_names)} class names)"


def read_manifest(path: str | Path) -> Manifest:
    """Reads a manifest and checks every row.

    Raises `UserError` naming file and line if it is missing, empty, lacks a column, or holds a
    number that is none or a label outside the class names.
    """
    path = Path(path)
    class_names = _read_class_names(path)
    found: KeptColumns | Columns
    if _is_large(path):
        found = kept_columns(path, lambda: read_columns(path, class_names))
    else:
        found = read_columns(path, class_names)
    if isinstance(found, Columns):
        return _manifest(path, class_names, found)
    if class_names and found.facts.highest_label >= len(class_names):
        read_columns(path, class_names)  # names the line: the names are others than they were
    return _mapped(path, class_names, found)


def write_manifest(path: str | Path, videos: Iterable[Video], class_names: Sequence[str]) -> None:
    """Writes a manifest and its class names, each whole or not at all.

    Paths inside the manifest's folder are written relative to it, others absolute.
    """
    path = Path(path)
    path.parent.mkdir(parents=True, exist_ok=True)
    folder = os.fspath(path.parent.absolute()) + "/"
    if class_names:
        with _text_file(_class_file(path)) as file:
            file.writelines(f"{name}\n" for name in class_names)
    else:
        _class_file(path).unlink(missing_ok=True)  # names of an older manifest would be wrong
    with _text_file(path) as file:
        writer, quoting = (
            csv.writer(file, lineterminator="\n", quoting=how)
            for how in (csv.QUOTE_MINIMAL, csv.QUOTE_ALL)
        )
        writer.writerow(CSV_COLUMNS)
        for video in videos:
            where = os.fspath(video.path.absolute()).removeprefix(folder)
            label = "" if video.label is None else video.label
            row = [where, label, *(getattr(video, name) for name in CSV_COLUMNS[2:])]
            # Python quotes no carriage return of itself, and reads it as the end of the row.
            (quoting if "\r" in where else writer).writerow(row)
    kept_path(path).unlink(missing_ok=True)


def _is_large(path: Path) -> bool:
    try:
        return path.stat().st_size >= KEPT_FROM_BYTES
    except OSError:
        return False  # to read it says why


def _manifest(path: Path, class_names: tuple[str, ...], columns: Columns) -> Manifest:
    return Manifest(path, class_names, codec_names=columns.codec_names, **columns.arrays)


def _mapped(path: Path, class_names: tuple[str, ...], kept: KeptColumns) -> Manifest:
    manifest = _manifest(path, class_names, kept.columns)
    object.__setattr__(manifest, "kept", kept)  # it is frozen, and `replace` is to leave this out
    return manifest


def _mapped_again(path: Path, class_names: tuple[str, ...], identity: str) -> Manifest:
    kept = map_columns(path, identity)
    if kept is None:
        raise UserError(f"{kept_path(path)}: is gone, or was written anew in this moment")
    return _mapped(path, class_names, kept)


def _class_file(path: Path) -> Path:
    return path.parent / f"{path.stem}.classes.txt"


def _read_class_names(path: Path) -> tuple[str, ...]:
    try:
        text = _class_file(path).read_text(encoding="utf-8", errors=ESCAPED)
    except FileNotFoundError:
        return ()
    return tuple(text.removesuffix("\n").split("\n")) if text else ()


@contextmanager
def _text_file(path: Path) -> Iterator[TextIO]:
    with whole_file(path) as partial:
        with partial.open("w", encoding="utf-8", errors=ESCAPED, newline="") as file:
            yield file
