"""One file of a motion store: an LMDB file whose errors are clear and whose size is its own care.

LMDB maps the file into memory. Readers of a finished store take no locks, so that it may lie where
nothing can be written; whoever looks into a store that is being filled takes them.
"""

import os
import shutil
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any, Literal

import lmdb

from mgm_dali.errors import UserError

__all__ = ["Shard", "StoreError"]

FIRST_MAP_BYTES = 1 << 30
"""Address space that a shard may fill before it is doubled; the file has only what is written."""
SPARE_BYTES = 1 << 20
"""Room that a disk must have: LMDB's lock file is mapped, and a full disk would kill the process.
Also what may be missing at the end of a file: LMDB reserves pages before it writes them."""
MAX_READERS = 1024
"""Processes that may look into a shard while it is being filled."""

OR_DELETE = "if it is damaged, delete it and run `mgm-dali extract` again"
MAKE_ROOM = "what is written stays: make room and run the same command again"


class StoreError(UserError):
    """A motion store is missing, lacks a video, is damaged, or cannot be written."""


class Shard:
    """An open file of a store. A process can have it open once.

    Raises `StoreError` for all that can be wrong with the file or the disk.
    """

    def __init__(self, path: Path, mode: Literal["read", "look", "write"]) -> None:
        """`read` takes no locks, `look` may go on while another process writes."""
        self.path = path
        if mode == "write":
            _require_room(path, SPARE_BYTES)
        with self._clear_errors("opened", OR_DELETE):
            self._file = lmdb.open(
                os.fsencode(path),  # its folder may have any bytes for a name
                subdir=False,
                readonly=mode != "write",
                lock=mode != "read",
                map_size=FIRST_MAP_BYTES if mode == "write" else 0,  # 0: as the file says
                max_readers=MAX_READERS,
            )
        try:
            self._require_whole()
        except BaseException:
            self.close()
            raise

    def close(self) -> None:
        """Closes the file; what has been put stays."""
        self._file.close()

    @contextmanager
    def record(self, key: bytes) -> Iterator[memoryview | None]:
        """The bytes kept under a key, None if there are none; they are gone when this is left."""
        with self._clear_errors("read", OR_DELETE), self._begin() as transaction:
            yield transaction.get(key)

    def __contains__(self, key: bytes) -> bool:
        with self.record(key) as data:
            return data is not None

    def put(self, records: Mapping[bytes, bytes]) -> None:
        """Writes records, all or none; when this returns they are on the disk."""
        num_bytes = sum(len(record) for record in records.values())
        _require_room(self.path, num_bytes + SPARE_BYTES)
        with self._clear_errors("written", MAKE_ROOM):
            while True:
                try:
                    with self._begin(write=True) as transaction:
                        for key, record in records.items():
                            transaction.put(key, record)
                    return
                except lmdb.MapFullError:
                    self._file.set_mapsize(2 * self._file.info()["map_size"])

    def _begin(self, *, write: bool = False) -> Any:
        try:
            return self._file.begin(buffers=True, write=write)
        except lmdb.MapResizedError:  # another process has doubled it since
            self._file.set_mapsize(0)
            return self._file.begin(buffers=True, write=write)

    def _require_whole(self) -> None:
        """Reading behind the end of a mapped file would kill the process."""
        num_bytes = self.path.stat().st_size
        expected = (self._file.info()["last_pgno"] + 1) * self._file.stat()["psize"]
        if num_bytes < expected - SPARE_BYTES:
            raise StoreError(
                f"{self.path}: is cut short: found {num_bytes} bytes, expected {expected}; copy it "
                "again if it is a copy; or delete it and run `mgm-dali extract` again"
            )

    @contextmanager
    def _clear_errors(self, what: str, repair: str) -> Iterator[None]:
        try:
            yield
        except (lmdb.Error, OSError) as error:
            raise StoreError(f"{self.path}: cannot be {what}: {error}; {repair}") from error


def _require_room(path: Path, num_bytes: int) -> None:
    free_bytes = _free_bytes(path)
    if free_bytes < num_bytes:
        raise StoreError(
            f"{path}: the disk is full: {free_bytes / 1e6:.0f} MB are free, "
            f"{num_bytes / 1e6:.0f} MB are needed; {MAKE_ROOM}"
        )


def _free_bytes(path: Path) -> int:
    return shutil.disk_usage(path.parent).free
