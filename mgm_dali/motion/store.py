"""The motion store: fields extracted once and kept, found by what a video file holds.

    STORE/store.json                        which format
    STORE/shard-00000-of-00002.lmdb         LMDB: fingerprint of a video -> record of its field
    STORE/shard-00001-of-00002.lmdb         one file per writing process

A moved data set keeps its store, and a replaced file is not taken for the old one. A writer that is
killed leaves what it had committed. LMDB maps its files into memory and locks them: keep a store on
a local disk, not on NFS, while it is being filled.
"""

import json
import os
import shutil
import stat
import time
from collections.abc import Sequence
from functools import cache
from hashlib import blake2b
from pathlib import Path
from types import TracebackType
from typing import Any

import lmdb
from numpy.typing import NDArray
from typing_extensions import Self

from mgm_dali.errors import UserError
from mgm_dali.files import write_whole
from mgm_dali.motion.field import MotionField
from mgm_dali.motion.records import Record, RecordError, encode_field
from mgm_dali.video.opening import VideoError

__all__ = ["MotionStore", "MotionStoreWriter", "StoreError", "fingerprint", "read_stored_motion"]

FORMAT = 1
FINGERPRINT_PART_BYTES = 64 << 10
FIRST_MAP_BYTES = 1 << 30
"""Address space that a shard may fill before it is doubled; the file has only what is written."""
COMMIT_BYTES = 16 << 20
COMMIT_SECONDS = 1.0
"""What is waiting when a writer is killed is lost: this much, or the work of so long."""
UNWRITTEN_BYTES = 1 << 20
"""The last pages that LMDB has reserved may be missing from a file without harm."""
MAX_READERS = 1024
"""Processes that may look into a shard while it is being filled."""

Frames = Sequence[int] | NDArray[Any] | None


class StoreError(UserError):
    """A motion store is missing, lacks a video, is damaged, or cannot be written."""


def fingerprint(path: str | Path) -> bytes:
    """What names a file in a store: its size and a hash of its first and last 64 KiB; 24 bytes.

    Raises `VideoError` if it cannot be read.
    """
    path = Path(path)
    try:
        facts = path.stat()
        if not stat.S_ISREG(facts.st_mode):  # opening a named pipe would wait for ever
            raise VideoError(path, "not a regular file")
        with path.open("rb") as file:
            digest = blake2b(file.read(FINGERPRINT_PART_BYTES), digest_size=16)
            file.seek(max(0, facts.st_size - FINGERPRINT_PART_BYTES))
            digest.update(file.read(FINGERPRINT_PART_BYTES))
    except OSError as error:
        raise VideoError(path, f"cannot be read: {error.strerror}") from None
    return facts.st_size.to_bytes(8, "little") + digest.digest()


class MotionStore:
    """Reads a store; it pickles as its folder, and every process opens the files for itself.

    Raises `StoreError` if the folder holds no store of this format.
    """

    def __init__(self, folder: str | Path) -> None:
        self.folder = Path(folder).absolute()
        _check_format(self.folder)

    def read_motion(self, path: str | Path, frames: Frames = None) -> MotionField:
        """The motion of frames (all by default), bit for bit as it was extracted.

        Raises `StoreError` if there is no record of this file, if it is damaged, or if a frame is
        not in it; `VideoError` if the file cannot be read.
        """
        key = fingerprint(path)
        for shard in _shards(self.folder):
            with shard.begin() as transaction:
                data = transaction.get(key)
                if data is not None:
                    return _read_record(shard, path, Record(key, data), frames)
        raise StoreError(
            f"{path}: no record of this file in the motion store {self.folder}: it was not there, "
            f"or was another file, when the store was filled; run `mgm-dali extract MANIFEST -o "
            f"{self.folder}`, which adds what is missing"
        )


def read_stored_motion(path: str | Path, frames: Frames, folder: Path | None) -> MotionField:
    """Reads motion from a store that stays open in this process.

    Raises what `MotionStore` raises, and `StoreError` if no folder is given.
    """
    if folder is None:
        raise StoreError("motion.source: store needs data.motion_store; name the store's folder")
    return _store(folder).read_motion(path, frames)


class MotionStoreWriter:
    """Fills one shard of a store: `with MotionStoreWriter(folder, 0, 1) as writer: ...`.

    Records are committed in small batches, and the last ones when the block is left. Nothing may
    read the store in the same process meanwhile. Raises `StoreError` if the folder holds a store of
    another format, or if the disk is full.
    """

    def __init__(self, folder: str | Path, shard: int, num_shards: int) -> None:
        if not 0 <= shard < num_shards:
            raise ValueError(f"shard {shard} of {num_shards}")
        self.folder = Path(folder).absolute()
        self.path = self.folder / f"shard-{shard:05d}-of-{num_shards:05d}.lmdb"
        self._waiting: dict[bytes, bytes] = {}
        self._waiting_bytes = 0
        self._last_commit = time.monotonic()

    def __enter__(self) -> Self:
        _require_space(self.folder)
        if not (self.folder / "store.json").exists():
            write_whole(self.folder / "store.json", json.dumps({"format": FORMAT}) + "\n")
        _check_format(self.folder)
        _close_shards(self.folder)  # LMDB allows a process to open a file once
        try:
            self._shard = _Shard(self.path, writable=True)
            self._others = [
                _Shard(path, locked=True) for path in _shard_paths(self.folder) if path != self.path
            ]
"""
