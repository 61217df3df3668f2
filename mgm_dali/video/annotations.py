"""Reads what official lists are made of: text, CSV and JSON, every fault with its place."""

import csv
import json
import math
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from mgm_dali.errors import UserError
from mgm_dali.files import require_file

__all__ = [
    "csv_rows",
    "finite_number",
    "matching_files",
    "only_file",
    "read_json",
    "required_file",
    "text_lines",
    "whole_number",
]

MAX_TEXT_BYTES = 1 << 28
MAX_JSON_BYTES = 1 << 26
"""Each is more than any official list has; JSON may take twenty times as much memory."""


def matching_files(folder: Path, *patterns: str) -> list[Path]:
    """The files of a folder whose names match one of the patterns, sorted; hidden ones do not.

    Raises `UserError` if the folder cannot be read.
    """
    try:
        paths = sorted(path for path in folder.iterdir() if not path.name.startswith("."))
    except OSError as error:
        raise UserError(f"{folder}: cannot be read: {error.strerror}") from None
    return [path for path in paths if any(map(path.match, patterns)) and path.is_file()]


def only_file(folder: Path, *patterns: str) -> Path | None:
    """The file of a folder whose name matches one of the patterns; None if there is none.

    Raises `UserError` if the folder cannot be read, or if several match.
    """
    found = matching_files(folder, *patterns)
    if len(found) > 1:
        names = " and ".join(path.name for path in found[:3])
        raise UserError(
            f"{folder}: {len(found)} files match {' or '.join(patterns)}: {names}; put the one "
            "that counts into a folder of its own"
        )
    return found[0] if found else None


def required_file(folder: Path, *patterns: str) -> Path:
    """As `only_file`, but raises `UserError` where there is none."""
    path = only_file(folder, *patterns)
    if path is None:
        raise UserError(
            f"{folder}: has no file {' or '.join(patterns)}; name the folder of the official lists "
            "with --annotations"
        )
    return path


def text_lines(path: Path) -> Iterator[tuple[str, str]]:
    """The lines that are not blank, stripped, each behind its place (`list.txt:3`).

    Bytes that are not UTF-8 pass unharmed, as names of files may hold them. Raises `UserError`.
    """
    _check_size(path, MAX_TEXT_BYTES)
    try:
        with path.open(encoding="utf-8-sig", errors="surrogateescape") as file:
            for number, line in enumerate(file, 1):
                if line := line.strip():
                    yield f"{path}:{number}", line
    except OSError as error:
        raise _unreadable(path, error) from None


def csv_rows(path: Path, columns: Sequence[str]) -> Iterator[tuple[str, dict[str, str]]]:
    """The rows of a CSV with a header, each behind its place.

    Raises `UserError` if the header lacks one of the columns or a row has too few fields.
    """
    _check_size(path, MAX_TEXT_BYTES)
    try:
        with path.open(encoding="utf-8-sig", errors="surrogateescape", newline="") as file:
            reader = csv.DictReader(file)
            lacking = [name for name in columns if name not in (reader.fieldnames or ())]
            if lacking:
                raise UserError(
                    f"{path}:1: lacks {', '.join(lacking)}; the official list begins with the line "
                    f"{','.join(columns)},..."
                )
            for row in reader:
                where = f"{path}:{reader.line_num}"
                if None in row.values():
                    raise UserError(f"{where}: has fewer fields than the first line")
                yield where, row
    except (OSError, csv.Error) as error:
        raise _unreadable(path, error) from None


def read_json(path: Path, kind: type[list[Any]] | type[dict[str, Any]]) -> Any:
    """A JSON file that holds a list or an object. Raises `UserError` if it does not."""
    _check_size(path, MAX_JSON_BYTES)
    try:
        content = json.loads(path.read_text(encoding="utf-8-sig"))
    except json.JSONDecodeError as error:
        raise UserError(f"{path}:{error.lineno}: is not JSON: {error.msg}") from None
    except RecursionError:
        raise UserError(f"{path}: is nested too deep for an official list") from None
    except (OSError, ValueError) as error:
        raise _unreadable(path, error) from None
    if not isinstance(content, kind):
        expected = "a list" if kind is list else "an object of names and numbers"
        raise UserError(f"{path}: holds {_found(content)}, expected {expected}")
    return content


def finite_number(where: str, what: str, text: str, expected: str = "a number") -> float:
    """A number from text. Raises `UserError` for what is none, or has no end."""
    try:
        if math.isfinite(value := float(text)):
            return value
    except ValueError:
        pass
    raise UserError(f"{where}: {what} is {text[:50]!r}, expected {expected}")


def whole_number(where: str, what: str, value: object, below: int | None = None) -> int:
    """A number of at least 0 from JSON or text, and below a bound. Raises `UserError`."""
    if isinstance(value, str) and value.isascii() and value.isdecimal() and len(value) < 10:
        value = int(value)
    if isinstance(value, bool) or not isinstance(value, int) or value < 0:
        raise UserError(f"{where}: {what} is {_found(value)}, expected a whole number from 0")
    if value >= (10**9 if below is None else below):
        expected = "less than a billion" if below is None else f"0 to {below - 1}"
        raise UserError(f"{where}: {what} is {_found(value)}, expected {expected}")
    return value


def _check_size(path: Path, most: int) -> None:
    try:
        require_file(path)
        size = path.stat().st_size
    except OSError as error:
        raise _unreadable(path, error) from None
    if size > most:
        raise UserError(f"{path}: has {size} bytes, no official list has more than {most}")


def _unreadable(path: Path, error: Exception) -> UserError:
    reason = error.strerror if isinstance(error, OSError) else error
    return UserError(f"{path}: cannot be read as an official list: {reason}")


def _found(value: object) -> str:
    if isinstance(value, Mapping | list):
        return "an object" if isinstance(value, Mapping) else "a list"
    return repr(value)[:100]
