"""The list of videos: a CSV for people, columns of numbers for the program.

    path,label,num_frames,fps,width,height,codec,duration_seconds
    fight/fi001.mp4,0,53,25.0,480,360,h264,2.12

Paths are relative to the manifest's folder or absolute; labels may be empty. The names of the
classes stand in `<stem>.classes.txt`, one a line. In memory a manifest of ten million rows is a
dozen arrays, not ten million objects: it pickles to worker processes in a moment.
"""

import csv
import io
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, fields
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from mgm_dali.errors import UserError

__all__ = ["Manifest", "Video", "read_manifest", "write_manifest"]


@dataclass(frozen=True)
class Video:
    """One row of a manifest."""

    path: Path
    """Absolute, or relative to the current folder if the manifest is."""
    label: int | None
    num_frames: int
    fps: float
    width: int
    """Pixels of the coded frame, before any rotation tag."""
    height: int
    codec: str
    """libavcodec's name, such as h264."""
    duration_seconds: float


COLUMNS = tuple(field.name for field in fields(Video))


@dataclass(frozen=True)
class Manifest:
    """N videos in columns; `manifest[row]` is one `Video`."""

    path: Path
    """The CSV file."""
    class_names: tuple[str, ...]
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
    """All paths as written in the CSV, UTF-8, one behind the other."""
    path_ends: NDArray[np.int64]
    """`[N]`, where each path ends in `path_bytes`."""

    def __len__(self) -> int:
        return len(self.labels)

    def __getitem__(self, row: int) -> Video:
        start = self.path_ends[row - 1] if row else 0
        name = bytes(self.path_bytes[start : self.path_ends[row]]).decode()
        label = int(self.labels[row])
        return Video(
            path=self.path.parent / name,
            label=None if label < 0 else label,
            num_frames=int(self.num_frames[row]),
            fps=float(self.fps[row]),
            width=int(self.widths[row]),
            height=int(self.heights[row]),
            codec=self.codec_names[self.codecs[row]],
            duration_seconds=float(self.durations_seconds[row]),
        )


def read_manifest(path: str | Path) -> Manifest:
    """Reads a manifest and checks every row.

    Raises `UserError` naming file and line if it is missing, empty, lacks a column, or holds a
    number that is none or a label outside the class names.
    """
    path = Path(path)
    class_names = _read_class_names(path)
    columns: dict[str, list[str]] = {name: [] for name in COLUMNS}
    try:
        with path.open(encoding="utf-8", newline="") as file:
            reader = csv.DictReader(file)
            lacking = [name for name in COLUMNS if name not in (reader.fieldnames or ())]
            if lacking:
                raise UserError(
                    f"{path}: its first line lacks {', '.join(lacking)}; a manifest is made by "
                    "`mgm-dali index`"
                )
            for row in reader:
                for name in COLUMNS:
                    columns[name].append(row[name] or "")
    except FileNotFoundError:
        raise UserError(f"{path}: no such manifest; make one with `mgm-dali index`") from None
    except (OSError, UnicodeDecodeError, csv.Error) as error:
        raise UserError(f"{path}: cannot be read as a manifest: {error}") from None
    if not columns["path"]:
        raise UserError(f"{path}: lists no video; make it anew with `mgm-dali index`")
    labels = _numbers(path, "label", [text or "-1" for text in columns["label"]], np.int64)
    _check_labels(path, labels, class_names)
    codec_names = tuple(sorted(set(columns["codec"])))
    codec_places = {name: place for place, name in enumerate(codec_names)}
    encoded = [text.encode() for text in columns["path"]]
    return Manifest(
        path=path,
        class_names=class_names,
        labels=labels,
        num_frames=_numbers(path, "num_frames", columns["num_frames"], np.int64, least=1),
        fps=_numbers(path, "fps", columns["fps"], np.float64),
        widths=_numbers(path, "width", columns["width"], np.int32, least=1),
        heights=_numbers(path, "height", columns["height"], np.int32, least=1),
        codecs=np.array([codec_places[name] for name in columns["codec"]], np.int16),
        codec_names=codec_names,
        durations_seconds=_numbers(path, "duration_seconds", columns["duration_seconds"], np.float64),
        path_bytes=np.frombuffer(b"".join(encoded), np.uint8),
        path_ends=np.cumsum([len(name) for name in encoded], dtype=np.int64),
    )


def write_manifest(path: str | Path, videos: Iterable[Video], class_names: Sequence[str]) -> None:
    """Writes a manifest and its class names, each whole or not at all.

    Paths inside the manifest's folder are written relative to it.
    """
    path = Path(path)
    path.parent.mkdir(parents=True, exist_ok=True)
    folder = path.parent.resolve()
    table = io.StringIO()
    writer = csv.writer(table, lineterminator="\n")
    writer.writerow(COLUMNS)
    for video in videos:
        absolute = video.path.absolute()
        inside = absolute.is_relative_to(folder)
        values = [getattr(video, name) for name in COLUMNS]
        values[0] = (absolute.relative_to(folder) if inside else absolute).as_posix()
        values[1] = "" if video.label is None else video.label
        writer.writerow(values)
    if class_names:
        _write_whole(_class_file(path), "".join(f"{name}\n" for name in class_names))
    _write_whole(path, table.getvalue())


def _numbers(
    path: Path, name: str, texts: Sequence[str], dtype: type[np.generic], least: float | None = None
) -> NDArray[np.generic]:
    try:
        values = np.array(texts, dtype=dtype) if texts else np.empty(0, dtype)
        bad = [] if least is None else np.flatnonzero(values < least).tolist()
    except ValueError:
        bad = [row for row, text in enumerate(texts) if not _parses(text, dtype)]
    if bad:
        raise UserError(
            f"{path}:{bad[0] + 2}: {name} is {texts[bad[0]]!r}, expected a number"
            + ("" if least is None else f" of at least {least}")
        )
    return values


def _parses(text: str, dtype: type[np.generic]) -> bool:
    try:
        np.array([text], dtype=dtype)
    except ValueError:
        return False
    return True


def _check_labels(path: Path, labels: NDArray[np.int64], class_names: Sequence[str]) -> None:
    too_high = np.flatnonzero(labels >= len(class_names)) if class_names else np.empty(0, int)
    wrong = np.concatenate((np.flatnonzero(labels < -1), too_high))
    if len(wrong):
        row = int(wrong[0])
        raise UserError(
            f"{path}:{row + 2}: label {labels[row]} is none of the {len(class_names)} classes in "
            f"{_class_file(path).name} (they count from 0); correct one of the two"
        )


def _class_file(path: Path) -> Path:
    return path.with_name(f"{path.stem}.classes.txt")


def _read_class_names(path: Path) -> tuple[str, ...]:
    try:
        return tuple(_class_file(path).read_text(encoding="utf-8").splitlines())
    except FileNotFoundError:
        return ()


def _write_whole(path: Path, text: str) -> None:
    partial = path.with_name(f".{path.name}.partial")
    partial.write_text(text, encoding="utf-8")
    partial.replace(path)
