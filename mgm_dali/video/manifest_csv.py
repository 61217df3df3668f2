"""Reads the CSV of a manifest into columns, piece by piece; a fault is named with its line."""

import csv
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any, TextIO

import numpy as np
from numpy.typing import NDArray

from mgm_dali.errors import UserError
from mgm_dali.files import require_file

__all__ = ["CSV_COLUMNS", "DTYPES", "ESCAPED", "Columns", "read_columns"]

CSV_COLUMNS = tuple("path label num_frames fps width height codec duration_seconds".split())
DTYPES: dict[str, np.dtype[Any]] = {
    "path_bytes": np.dtype("u1"),
    "path_ends": np.dtype("<i8"),
    "labels": np.dtype("<i8"),
    "num_frames": np.dtype("<i8"),
    "fps": np.dtype("<f8"),
    "widths": np.dtype("<i4"),
    "heights": np.dtype("<i4"),
    "codecs": np.dtype("<i2"),
    "durations_seconds": np.dtype("<f8"),
}
"""Of the columns in memory; `Manifest` says what they hold."""
ESCAPED = "surrogateescape"
"""File names are bytes: those that are not UTF-8 travel through the CSV unharmed."""

PIECE_CHARS = 1 << 15
"""Fits into a processor's cache: larger pieces are slower."""
REMEMBERED = 1 << 16
"""Texts of a column whose numbers are known: mostly few differ."""


@dataclass(frozen=True, eq=False)
class Columns:
    """The rows of a manifest."""

    arrays: dict[str, NDArray[Any]]
    """By the names of `DTYPES`."""
    codec_names: tuple[str, ...]
    """What the numbers in "codecs" mean."""


def read_columns(path: Path, class_names: Sequence[str]) -> Columns:
    """Reads a CSV and checks every row.

    Raises `UserError` naming file and line if it is missing, empty, lacks a column, or holds a
    number that is none or a label outside the class names.
    """
    try:
        require_file(path)
        with path.open(encoding="utf-8", errors=ESCAPED, newline="") as file:
            reader = csv.reader(file)
            header = next(reader, [])
            rows = _Rows(_places_of_columns(path, header), len(header), class_names)
            first_line = reader.line_num + 1
            while lines := file.readlines(PIECE_CHARS):
                try:
                    rows.extend(rows.split(lines) or rows.parse(lines, file))
                except (ValueError, IndexError, csv.Error):
                    rows.raise_first_fault(path, first_line, lines)
                    raise
                first_line += len(lines)
    except FileNotFoundError:
        raise UserError(f"{path}: no such manifest; make one with `mgm-dali index`") from None
    except (OSError, csv.Error) as error:
        raise UserError(f"{path}: cannot be read as a manifest: {error}") from None
    if not rows.columns["labels"]:
        raise UserError(f"{path}: lists no video; make it anew with `mgm-dali index`")
    return rows.whole()


class _Rows:
    """Rows as they are read, packed at once: a list of ten million objects would not fit."""

    def __init__(self, places: list[int], width: int, class_names: Sequence[str]) -> None:
        """`places` are those of `CSV_COLUMNS` among `width` fields of a line."""
        self._places, self._width = places, width
        self.columns = {name: bytearray() for name in DTYPES}
        self._codecs: dict[str, int] = {}
        self._numbers: dict[str, Callable[[str], float]] = {
            "labels": partial(_label, class_names),
            "num_frames": partial(_number, "num_frames", int, 1),
            "fps": partial(_number, "fps", float, 0),
            "widths": partial(_number, "width", int, 1),
            "heights": partial(_number, "height", int, 1),
            "codecs": lambda name: self._codecs.setdefault(name, len(self._codecs)),
            "durations_seconds": partial(_number, "duration_seconds", float, 0),
        }
        self._known = {name: _Known(convert) for name, convert in self._numbers.items()}

    def split(self, lines: list[str]) -> list[list[str]] | None:
        """The columns of lines in which each comma parts two fields; None where any may not."""
        text = "".join(lines).removesuffix("\n")
        if '"' in text or "\r" in text or len(text) > csv.field_size_limit():
            return None
        if any(line.count(",") != self._width - 1 for line in lines):
            return None
        fields = text.replace("\n", ",").split(",")
        return [fields[place :: self._width] for place in self._places]

    def parse(self, lines: list[str], file: TextIO) -> list[list[str]]:
        """The columns of any lines; those of `file` on which the last row goes on are added."""
        num_lines = len(lines)

        def with_more() -> Iterator[str]:
            yield from lines[:num_lines]
            for line in file:
                lines.append(line)
                yield line

        reader, rows = csv.reader(with_more()), []
        while reader.line_num < num_lines:
            rows.append(next(reader, []))
        return [[row[place] for row in rows if row] for place in self._places]

    def extend(self, fields: Sequence[Sequence[str]]) -> None:
        """Adds rows, given as columns of text; raises `ValueError` if one is faulty."""
        if "" in fields[0]:
            raise ValueError("a path is empty")
        paths = [text.encode("utf-8", ESCAPED) for text in fields[0]]
        numbers = {"path_ends": np.fromiter(map(len, paths), DTYPES["path_ends"], len(paths))}
        numbers["path_ends"][:1] += len(self.columns["path_bytes"])
        np.cumsum(numbers["path_ends"], out=numbers["path_ends"])
        for (name, known), texts in zip(self._known.items(), fields[1:], strict=True):
            numbers[name] = known.numbers(texts, DTYPES[name])
        self.columns["path_bytes"] += b"".join(paths)
        for name, column in numbers.items():
            self.columns[name] += column.data.cast("B")

    def raise_first_fault(self, path: Path, first_line: int, lines: list[str]) -> None:
        """Raises `UserError` for the first faulty row, or the parser's own error."""
        reader = csv.reader(lines)
        for row in filter(None, reader):
            where = f"{path}:{first_line - 1 + reader.line_num}"
            if len(row) <= max(self._places):
                raise UserError(f"{where}: has {len(row)} fields, the first line has more")
            name, *texts = [row[place] for place in self._places]
            if not name:
                raise UserError(f"{where}: the path is empty")
            try:
                for convert, text in zip(self._numbers.values(), texts, strict=True):
                    convert(text)
            except ValueError as error:
                raise UserError(f"{where}: {error}") from None

    def whole(self) -> Columns:
        """All rows; nothing is copied."""
        arrays = {name: np.frombuffer(self.columns[name], DTYPES[name]) for name in DTYPES}
        return Columns(arrays, tuple(self._codecs))


class _Known(dict[str, float]):
    """The numbers that texts of a column stand for; each text is checked once."""

    def __init__(self, convert: Callable[[str], float]) -> None:
        self._convert = convert

    def __missing__(self, text: str) -> float:
        number = self[text] = self._convert(text)
        return number

    def numbers(self, texts: Sequence[str], dtype: np.dtype[Any]) -> NDArray[Any]:
        """Of each text; raises `ValueError` if one is faulty."""
        if len(self) > REMEMBERED:
            self.clear()
        return np.fromiter(map(self.__getitem__, texts), dtype, len(texts))


def _places_of_columns(path: Path, header: list[str]) -> list[int]:
    names = [name.strip().removeprefix("\ufeff") for name in header]  # Excel writes a mark
    lacking = [name for name in CSV_COLUMNS if name not in names]
    if lacking:
        raise UserError(
            f"{path}: its first line lacks {', '.join(lacking)}; a manifest is made by "
            "`mgm-dali index`"
        )
    return [names.index(name) for name in CSV_COLUMNS]


def _number(name: str, kind: Callable[[str], float], least: int, text: str) -> float:
    try:
        value = kind(text)
        if least <= value < 2**31:
            return value
    except ValueError:
        pass
    raise ValueError(f"{name} is {text!r}, expected a number of at least {least}")


def _label(class_names: Sequence[str], text: str) -> float:
    if not text:
        return -1
    label = _number("label", int, 0, text)
    if class_names and label >= len(class_names):
        raise ValueError(
            f"label {label} is none of the {len(class_names)} named classes (they count "
            "from 0); correct it, or the .classes.txt beside the manifest"
        )
    return label
