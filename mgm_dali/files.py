"""Files that appear whole or not at all, and tables as the text of a CSV."""

import contextlib
import csv
import errno
import io
import os
import stat
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from pathlib import Path

__all__ = [
    "append_whole",
    "csv_text",
    "partial_name",
    "read_whole",
    "require_file",
    "require_file_if_any",
    "require_writable",
    "whole_file",
    "write_whole",
]


def require_file(path: Path) -> None:
    """Raises `OSError` if it is no file: a pipe would be waited for, a device may have no end."""
    mode = path.stat().st_mode
    if stat.S_ISDIR(mode):
        raise IsADirectoryError(errno.EISDIR, os.strerror(errno.EISDIR), str(path))
    if not stat.S_ISREG(mode):
        raise OSError(errno.EINVAL, "not a regular file", str(path))


def require_file_if_any(path: Path) -> None:
    """The same, but nothing at all will do: a file can be begun there."""
    with contextlib.suppress(FileNotFoundError):
        require_file(path)


def read_whole(path: Path) -> bytes:
    """All that a file holds. Raises `OSError`."""
    require_file(path)
    return path.read_bytes()


def require_writable(path: Path) -> None:
    """Raises `OSError` if `whole_file` cannot write there: before the work for it is done."""
    require_file_if_any(path)
    path.parent.mkdir(parents=True, exist_ok=True)
    partial = partial_name(path)
    try:
        partial.touch()
    except OSError as error:
        raise OSError(error.errno, error.strerror, str(path)) from None  # nobody knows the other
    partial.unlink()


def partial_name(path: Path) -> Path:
    """What this process alone, of this machine alone, calls a file that is not yet whole."""
    return path.with_name(f".{path.name}.{os.uname().nodename}.{os.getpid()}.partial")


@contextmanager
def whole_file(path: Path, *, synced: bool = False) -> Iterator[Path]:
    """A name beside `path` to write to; moved onto `path` when the block ends without an error.

    A reader finds the whole file or what was there before, even if this process is killed, and
    with `synced` even if the machine is. Folders are made on the way. Raises `OSError`, also if
    something that is no file is there: whoever may would replace /dev/null.
    """
    require_file_if_any(path)
    path.parent.mkdir(parents=True, exist_ok=True)
    partial = partial_name(path)
    try:
        yield partial
        if synced:
            with partial.open("rb") as written:
                os.fsync(written.fileno())
        partial.replace(path)
    except OSError as error:
        if error.filename is not None or error.errno is None:
            raise
        raise OSError(error.errno, error.strerror, str(path)) from None  # of a full disk
    finally:
        partial.unlink(missing_ok=True)  # there after an error only


def write_whole(path: Path, content: str | bytes) -> None:
    """Writes a file in one go, whole or not at all."""
    if isinstance(content, str):
        content = content.encode(errors="surrogateescape")  # names of files may be any bytes
    with whole_file(path) as partial:
        partial.write_bytes(content)


def append_whole(path: Path, content: bytes) -> None:
    """Adds to the end of a file in one go, all or nothing. Raises `OSError`.

    For files that one process alone writes: what a full disk cut off is taken back.
    """
    require_file_if_any(path)
    path.parent.mkdir(parents=True, exist_ok=True)
    end = path.stat().st_size if path.exists() else 0
    try:
        with path.open("ab") as file:
            file.write(content)
    except OSError:
        with contextlib.suppress(OSError):
            os.truncate(path, end)
        raise


def csv_text(header: Iterable[object], rows: Iterable[Iterable[object]]) -> str:
    """A table as the text of a CSV file."""
    table = io.StringIO()
    writer, quoting = (
        csv.writer(table, lineterminator="\n", quoting=how)
        for how in (csv.QUOTE_MINIMAL, csv.QUOTE_ALL)
    )
    for row in (header, *rows):
        cells = list(row)
        # Python quotes no carriage return of itself, and reads it as the end of the row.
        (quoting if any("\r" in str(cell) for cell in cells) else writer).writerow(cells)
    return table.getvalue()
