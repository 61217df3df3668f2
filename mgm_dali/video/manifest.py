"""The list of videos: a CSV for people, columns of numbers for the program.

    path,label,num_frames,fps,width,height,codec,duration_seconds
    fight/fi001.mp4,0,53,25.0,480,360,h264,2.12

Paths are relative to the manifest's folder or absolute; labels may be empty. The names of the
classes stand in `<stem>.classes.txt`, one a line. In memory a manifest of ten million rows is a
dozen arrays, not ten million objects: it pickles to worker processes in a moment.
"""

import csv
import os
from array import array
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, fields, replace
from pathlib import Path
from typing import TextIO, TypeVar

import numpy as np
from numpy.typing import NDArray

from mgm_dali.errors import UserError
from mgm_dali.files import whole_file

__all__ = ["Manifest", "Video", "read_manifest", "write_manifest"]

Number = TypeVar("Number", int, float)

_ESCAPED = "surrogateescape"
"""File names are bytes: those that are not UTF-8 travel through the CSV unharmed."""


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


COLUMNS = tuple(field.name for field in fields(Video) if field.name != "keyframe")


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
            path=self.path.parent / name.decode(errors=_ESCAPED),
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

    def __repr__(self) -> str:
        return f"Manifest({self.path}, {len(self)} videos, {len(self.class_names)} class names)"


def read_manifest(path: str | Path) -> Manifest:
    """Reads a manifest and checks every row.

    Raises `UserError` naming file and line if it is missing, empty, lacks a column, or holds a
    number that is none or a label outside the class names.
    """
    path = Path(path)
    class_names = _read_class_names(path)
    table = _Columns()
    try:
        with path.open(encoding="utf-8", errors=_ESCAPED, newline="") as file:
            reader = csv.reader(file)
            places = _places_of_columns(path, next(reader, []))
            for row in reader:
                if row:
                    where = f"{path}:{reader.line_num}"
                    if len(row) <= max(places):
                        raise UserError(f"{where}: has {len(row)} fields, the first line has more")
                    table.append(where, [row[place] for place in places], class_names)
    except FileNotFoundError:
        raise UserError(f"{path}: no such manifest; make one with `mgm-dali index`") from None
    except (OSError, csv.Error) as error:
        raise UserError(f"{path}: cannot be read as a manifest: {error}") from None
    if not table.labels:
        raise UserError(f"{path}: lists no video; make it anew with `mgm-dali index`")
    return table.manifest(path, class_names)


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
        writer = csv.writer(file, lineterminator="\n")
        writer.writerow(COLUMNS)
        for video in videos:
            where = os.fspath(video.path.absolute()).removeprefix(folder)
            label = "" if video.label is None else video.label
            writer.writerow([where, label, *(getattr(video, name) for name in COLUMNS[2:])])


class _Columns:
    """Rows as they are read, packed at once: a list of ten million objects would not fit."""

    def __init__(self) -> None:
        self.paths = bytearray()
        self.path_ends = array("q")
        self.labels = array("q")
        self.num_frames = array("q")
        self.fps = array("d")
        self.widths = array("i")
        self.heights = array("i")
        self.codecs = array("h")
        self.codec_names: dict[str, int] = {}
        self.durations_seconds = array("d")

    def append(self, where: str, row: Sequence[str], class_names: Sequence[str]) -> None:
        path, label, num_frames, fps, width, height, codec, duration = row
        if not path:
            raise UserError(f"{where}: the path is empty")
        self.paths += path.encode(errors=_ESCAPED)
        self.path_ends.append(len(self.paths))
        self.labels.append(_label(where, label, class_names))
        self.num_frames.append(_number(where, "num_frames", num_frames, int, 1))
        self.fps.append(_number(where, "fps", fps, float, 0))
        self.widths.append(_number(where, "width", width, int, 1))
        self.heights.append(_number(where, "height", height, int, 1))
        self.codecs.append(self.codec_names.setdefault(codec, len(self.codec_names)))
        self.durations_seconds.append(_number(where, "duration_seconds", duration, float, 0))

    def manifest(self, path: Path, class_names: tuple[str, ...]) -> Manifest:
        return Manifest(
            path=path,
            class_names=class_names,
            labels=np.array(self.labels, dtype=np.int64),
            num_frames=np.array(self.num_frames, dtype=np.int64),
            fps=np.array(self.fps, dtype=np.float64),
            widths=np.array(self.widths, dtype=np.int32),
            heights=np.array(self.heights, dtype=np.int32),
            codecs=np.array(self.codecs, dtype=np.int16),
            codec_names=tuple(self.codec_names),
            durations_seconds=np.array(self.durations_seconds, dtype=np.float64),
            path_bytes=np.frombuffer(bytes(self.paths), dtype=np.uint8),
            path_ends=np.array(self.path_ends, dtype=np.int64),
        )


def _places_of_columns(path: Path, header: list[str]) -> list[int]:
    names = [name.strip().removeprefix("\ufeff") for name in header]  # Excel writes a mark
    lacking = [name for name in COLUMNS if name not in names]
    if lacking:
        raise UserError(
            f"{path}: its first line lacks {', '.join(lacking)}; a manifest is made by "
            "`mgm-dali index`"
        )
    return [names.index(name) for name in COLUMNS]


def _number(where: str, name: str, text: str, kind: Callable[[str], Number], least: int) -> Number:
    try:
        value = kind(text)
        if least <= value < 2**31:
            return value
    except ValueError:
        pass
    raise UserError(f"{where}: {name} is {text!r}, expected a number of at least {least}")


def _label(where: str, text: str, class_names: Sequence[str]) -> int:
    if not text:
        return -1
    label = _number(where, "label", text, int, 0)
    if class_names and label >= len(class_names):
        raise UserError(
            f"{where}: label {label} is none of the {len(class_names)} named classes (they count "
            "from 0); correct it, or the .classes.txt beside the manifest"
        )
    return label


def _class_file(path: Path) -> Path:
    return path.with_name(f"{path.stem}.classes.txt")


def _read_class_names(path: Path) -> tuple[str, ...]:
    try:
        text = _class_file(path).read_text(encoding="utf-8", errors=_ESCAPED)
    except FileNotFoundError:
        return ()
    return tuple(text.removesuffix("\n").split("\n")) if text else ()


@contextmanager
def _text_file(path: Path) -> Iterator[TextIO]:
    with whole_file(path) as partial:
        with partial.open("w", encoding="utf-8", errors=_ESCAPED, newline="") as file:
            yield file
