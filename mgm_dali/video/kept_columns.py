"""The columns of a large manifest in a file beside the CSV, which all processes map.

    videos.csv              700 MB of text, which takes a while to read
    videos.csv.columns      mgm-dali columns 1 <SHA-256 of the next line>
                            {"csv_stamps": [...], "csv_checksum": "...", ...}
                            the columns as in memory, each at a multiple of 64 bytes

It is believed if its head is whole, its length fits, and the CSV has the size and the times of
change that are written there. Else it is written anew, by one process of a machine for all. It may
be deleted at any time: whoever has mapped it keeps it. What a disk returns wrong behind the head is
not looked for, as it is not in the CSV: to read all of it would cost what the file shall save.
"""

import fcntl
import json
import logging
import mmap
import os
from collections.abc import Callable
from contextlib import ExitStack, suppress
from dataclasses import asdict, dataclass
from hashlib import blake2b, sha256
from pathlib import Path
from typing import Any, BinaryIO

import numpy as np
from numpy.typing import NDArray

from mgm_dali.files import whole_file
from mgm_dali.video.manifest_csv import DTYPES, Columns

__all__ = [
    "KeptColumns",
    "checksum_of_columns",
    "checksum_of_csv",
    "kept_columns",
    "kept_path",
    "map_columns",
]

logger = logging.getLogger(__name__)

MAGIC = b"mgm-dali columns 1 "
"""Another number for another layout, other `DTYPES` or other `Facts`."""
LONGEST_HEAD = 1 << 20
ALIGNED = 64


@dataclass(frozen=True)
class Facts:
    """What stands in the head."""

    csv_stamps: list[int]
    """Size and times of change of the CSV: see `_stamps`."""
    csv_checksum: str
    """SHA-256."""
    videos_checksum: str
    """`Manifest.checksum`."""
    highest_label: int
    codec_names: list[str]
    num_rows: int
    num_path_bytes: int

    def count(self, name: str) -> int:
        """The length of a column."""
        return self.num_path_bytes if name == "path_bytes" else self.num_rows


@dataclass(frozen=True, eq=False)
class KeptColumns:
    """Columns that are mapped from a file, and what else it says of them."""

    columns: Columns
    identity: str
    """SHA-256 of the head, and so of the CSV: files with the same hold the same."""
    facts: Facts


def kept_path(csv: Path) -> Path:
    """Where the columns of a CSV are kept."""
    return csv.with_name(f"{csv.name}.columns")


def kept_columns(csv: Path, read: Callable[[], Columns]) -> KeptColumns | Columns:
    """The columns of a CSV from the file that keeps them, which is made if there is none of it.

    `read` reads the CSV; its errors pass through. Where nothing can be kept, what it gives is the
    answer.
    """
    found = map_columns(csv)
    if found is not None:
        return found
    if not os.access(csv.parent, os.W_OK):
        logger.info("%s: its columns are not kept: the folder cannot be written", csv)
        return read()
    with ExitStack() as stack:
        with suppress(OSError):  # not every file system has locks: then each reads for itself
            fcntl.flock(stack.enter_context(csv.open("rb")), fcntl.LOCK_EX)
        return map_columns(csv) or _read_and_keep(csv, read)


def map_columns(csv: Path, identity: str | None = None) -> KeptColumns | None:
    """The kept columns, if they are those of the CSV as it is now, or those named by `identity`."""
    try:
        with kept_path(csv).open("rb") as file:
            identity_found, facts = _read_head(file)
            places, end = _places(file.tell(), facts)
            is_meant = identity_found == identity if identity else facts.csv_stamps == _stamps(csv)
            if not is_meant or os.fstat(file.fileno()).st_size != end:
                return None
            pages = mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ)
    except (OSError, ValueError, TypeError):  # cut, foreign, or with other facts
        return None
    arrays: dict[str, NDArray[Any]] = {
        name: np.frombuffer(pages, DTYPES[name], facts.count(name), place)
        for name, place in places.items()
    }
    return KeptColumns(Columns(arrays, tuple(facts.codec_names)), identity_found, facts)


def checksum_of_csv(csv: Path) -> str:
    """SHA-256 of the file, in hexadecimal."""
    digest = sha256()
    with csv.open("rb") as file:
        while block := file.read(1 << 22):
            digest.update(block)
    return digest.hexdigest()


def checksum_of_columns(*columns: NDArray[Any]) -> str:
    """64 bits of columns that lie one behind the other, in hexadecimal."""
    digest = blake2b(digest_size=8)
    for column in columns:
        digest.update(column.data)
    return digest.hexdigest()


def _read_and_keep(csv: Path, read: Callable[[], Columns]) -> KeptColumns | Columns:
    columns: Columns | None = None
    try:
        with whole_file(kept_path(csv), synced=True) as partial:
            partial.touch()
            began_ns, stamps = partial.stat().st_mtime_ns, _stamps(csv)
            columns = read()
            facts = _facts(csv, stamps, columns)
            # A change within the same tick of the file system's clock would leave no trace.
            if stamps[-1] >= began_ns or stamps != _stamps(csv):
                raise OSError("it was changed a moment ago")
            _write(partial, columns, facts)
    except OSError as error:
        logger.info("%s: its columns are not kept: %s", csv, error)
        return columns or read()
    return map_columns(csv) or columns


def _facts(csv: Path, stamps: list[int], columns: Columns) -> Facts:
    arrays = columns.arrays
    videos = (arrays[name] for name in ("path_bytes", "path_ends", "num_frames", "fps"))
    return Facts(
        csv_stamps=stamps,
        csv_checksum=checksum_of_csv(csv),
        videos_checksum=checksum_of_columns(*videos),
        highest_label=int(arrays["labels"].max()),
        codec_names=list(columns.codec_names),
        num_rows=len(arrays["labels"]),
        num_path_bytes=len(arrays["path_bytes"]),
    )


def _stamps(csv: Path) -> list[int]:
    """Size, time of the last change of content, and of any change: the last cannot be set."""
    with csv.open("rb") as file:  # a network's file system looks anew when a file is opened
        status = os.fstat(file.fileno())
    return [status.st_size, status.st_mtime_ns, status.st_ctime_ns]


def _write(path: Path, columns: Columns, facts: Facts) -> None:
    line = json.dumps(asdict(facts)).encode() + b"\n"
    with path.open("wb") as file:
        file.write(MAGIC + sha256(line).hexdigest().encode() + b"\n" + line)
        for name, place in _places(file.tell(), facts)[0].items():
            file.seek(place)
            file.write(columns.arrays[name].data)


def _read_head(file: BinaryIO) -> tuple[str, Facts]:
    """The identity and the facts; `file` stands behind them. Raises `ValueError` if not ours."""
    first, line = file.readline(len(MAGIC) + 65), file.readline(LONGEST_HEAD)
    identity = sha256(line).hexdigest()
    if first != MAGIC + identity.encode() + b"\n":
        raise ValueError("not a whole head")
    return identity, Facts(**json.loads(line))


def _places(head_bytes: int, facts: Facts) -> tuple[dict[str, int], int]:
    """Where each column begins, and where the last one ends."""
    places, end = {}, head_bytes
    for name, dtype in DTYPES.items():
        places[name] = -(-end // ALIGNED) * ALIGNED
        end = places[name] + facts.count(name) * dtype.itemsize
    return places, end
