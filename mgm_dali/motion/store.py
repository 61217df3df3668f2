"""The motion store: fields extracted once and kept, found by what a video file holds.

    STORE/store.json                        which format, and how its fields were made
    STORE/shard-00000-of-00002.lmdb         fingerprint of a video -> record of its field
    STORE/shard-00001-of-00002.lmdb         one file per writing process

A moved data set keeps its store, and a replaced file is not taken for the old one. A writer that is
killed leaves what it had committed. Files are mapped and locked: keep a store on a local disk, not
on NFS, while it is being filled.
"""

import json
import os
import time
from functools import cache
from pathlib import Path

from typing_extensions import Self

from mgm_dali.files import write_whole
from mgm_dali.motion.field import MotionField
from mgm_dali.motion.records import Record, RecordError
from mgm_dali.motion.shard import Shard, StoreError
from mgm_dali.video.fingerprint import fingerprint
from mgm_dali.video.reader import FrameNumbers

__all__ = [
    "DamagedError",
    "MotionStore",
    "MotionStoreWriter",
    "NotInStoreError",
    "StoreError",
    "fingerprint",
    "read_stored_motion",
]

FORMAT = 2
"""1 did not tell which cells are known."""
COMMIT_BYTES = 16 << 20
COMMIT_SECONDS = 1.0
"""A record that comes this soon after a commit waits for the next, unless there are many bytes: a
commit waits for the disk. What waits when a writer is killed is lost, and extracted again."""


class DamagedError(StoreError):
    """A record does not hold what was written."""


class NotInStoreError(StoreError):
    """A store has no record of a video."""


class MotionStore:
    """Reads a store; it pickles as its folder, and every process opens the files for itself.

    Raises `StoreError` if the folder holds no store of this format.
    """

    def __init__(self, folder: str | Path) -> None:
        self.folder = Path(folder).absolute()
        self.choices = _read_description(self.folder)
        """How its fields were made, as its writers said it: {"source": "codec", ...}."""

    def open_files(self) -> None:
        """Opens them now, to know at once if one cannot be; reading would do it too."""
        _open_all(self.folder)

    def read_motion(self, path: str | Path, frames: FrameNumbers | None = None) -> MotionField:
        """The motion of frames (all by default) in the order asked, bit for bit as extracted.

        Raises `StoreError` if there is no record of this file, if it is damaged, or if a frame is
        not in it; `VideoError` if the file cannot be read.
        """
        key = fingerprint(path)
        damage: StoreError | None = None
        for shard in _open_all(self.folder):
            with shard.record(key) as data:
                if data is None:
                    continue
                try:
                    return _read_record(shard, path, key, data, frames)
                except DamagedError as error:  # another shard may hold what was extracted again
                    damage = error
        if damage is not None:
            raise damage
        raise NotInStoreError(
            f"{path}: no record of this file in the motion store {self.folder}: it was not there, "
            "or was another file, when the store was filled; `mgm-dali extract MANIFEST -o "
            f"{self.folder}` adds what is missing"
        )


def read_stored_motion(
    path: str | Path, frames: FrameNumbers | None, folder: Path | None
) -> MotionField:
    """Reads motion from a store that stays open in this process.

    Raises what `MotionStore` raises, and `StoreError` if no folder is given.
    """
    if folder is None:
        raise StoreError("motion.source: store needs data.motion_store, the folder of the store")
    return _store(folder).read_motion(path, frames)


class MotionStoreWriter:
    """Fills one shard of a store: `with MotionStoreWriter(folder, 0, 1) as writer: ...`.

    Records are committed in small batches, the last one when the block is left. Meanwhile this
    process cannot read the store. Raises `StoreError` if the folder holds a store of another
    format or made by other choices, if a shard is damaged, or if the disk is full.
    """

    def __init__(self, folder: str | Path, shard: int, num_shards: int, **choices: str) -> None:
        """`choices` say how the fields are made: `source="codec"`; they hold for the whole store.

        A choice of which the store says nothing yet is added to its description.
        """
        assert 0 <= shard < num_shards, f"shard {shard} of {num_shards}"
        self.folder = Path(folder).absolute()
        self._name = f"shard-{shard:05d}-of-{num_shards:05d}.lmdb"
        self._choices = choices
        self._shards: list[Shard] = []
        """All of the store; the first is written."""
        self._waiting: dict[bytes, bytes] = {}
        self._last_commit = time.monotonic()

    def __enter__(self) -> Self:
        _describe(self.folder, self._choices)
        _close_shards()  # a process can have a file open once
        try:
            self._shards.append(Shard(self.folder / self._name, "write"))
            for path in _shard_paths(self.folder):
                if path.name != self._name:
                    self._shards.append(Shard(path, "look"))
        except BaseException:
            self._close()
            raise
        return self

    def __exit__(self, *_: object) -> None:
        try:
            self.commit()
        finally:
            self._close()

    def has(self, key: bytes) -> bool:
        """Whether any shard of the store has a record of this fingerprint."""
        return key in self._waiting or any(key in shard for shard in self._shards)

    def add_record(self, key: bytes, record: bytes) -> None:
        """Keeps the field of the file with this fingerprint, encoded by `encode_field`."""
        self._waiting[key] = record
        num_bytes = sum(len(record) for record in self._waiting.values())
        is_late = time.monotonic() - self._last_commit > COMMIT_SECONDS
        if is_late or num_bytes > COMMIT_BYTES:
            self.commit()

    def commit(self) -> None:
        """Writes what is waiting; when this returns it survives whatever happens."""
        # Emptied first: if the disk is full, leaving the block must not try the same again.
        waiting, self._waiting = self._waiting, {}
        if waiting:
            self._shards[0].put(waiting)
        self._last_commit = time.monotonic()

    def _close(self) -> None:
        while self._shards:
            self._shards.pop().close()


def _read_record(
    shard: Shard, path: str | Path, key: bytes, data: memoryview, frames: FrameNumbers | None
) -> MotionField:
    try:
        record = Record(key, data)
        numbers = range(record.num_frames) if frames is None else frames
        if len(numbers) and not 0 <= min(numbers) <= max(numbers) < record.num_frames:
            raise StoreError(
                f"{path}: frames {min(numbers)} to {max(numbers)} were asked for, but its record "
                f"has {record.num_frames}; index the video again with `mgm-dali index`"
            )
        return record.read(numbers)
    except RecordError as error:
        raise DamagedError(
            f"{shard.path}: the motion of {path} is damaged: {error}; `mgm-dali extract MANIFEST "
            f"-o {shard.path.parent} --repair` replaces what is damaged"
        ) from None


def _describe(folder: Path, choices: dict[str, str]) -> None:
    """Writes store.json, unless it says the same or something else."""
    description = folder / "store.json"
    earlier = _read_description(folder) if description.exists() else {}
    for name, choice in choices.items():
        if earlier.get(name, choice) != choice:
            option, was = f"--{name.replace('_', '-')}", earlier[name]
            raise StoreError(
                f"{folder}: was filled with `{option} {was}`, now {choice} was asked for; extract "
                f"into another folder, or go on with {was}"
            )
    try:
        if not description.exists() or choices.keys() - earlier.keys():
            content = {"format": FORMAT, **earlier, **choices}
            write_whole(description, json.dumps(content) + "\n")
    except OSError as error:
        raise StoreError(
            f"{folder}: no store can be made there: {error.strerror}; name another folder"
        ) from None


def _read_description(folder: Path) -> dict[str, str]:
    """What store.json says beside the format."""
    description = folder / "store.json"
    try:
        choices = dict(json.loads(description.read_text(encoding="utf-8")))
        found = choices.pop("format")
    except (FileNotFoundError, NotADirectoryError):
        raise StoreError(
            f"{folder}: no motion store there (it has no store.json); fill one with "
            f"`mgm-dali extract MANIFEST -o {folder}`"
        ) from None
    except (OSError, ValueError, TypeError, KeyError) as error:
        raise StoreError(
            f"{description}: does not describe a motion store: {error!r}; extract into another "
            "folder"
        ) from None
    if found != FORMAT:
        raise StoreError(
            f"{description}: the store has format {found!r}, this version reads {FORMAT}; extract "
            "into another folder"
        )
    return choices


def _shard_paths(folder: Path) -> list[Path]:
    # A writer that was killed at its very beginning leaves an empty file.
    return sorted(path for path in folder.glob("shard-*-of-*.lmdb") if path.stat().st_size)


_store = cache(MotionStore)
_open_shards: dict[Path, list[Shard]] = {}


def _open_all(folder: Path) -> list[Shard]:
    """The shards of a store, opened once in a process."""
    if folder not in _open_shards:
        _open_shards[folder] = [Shard(path, "read") for path in _shard_paths(folder)]
    return _open_shards[folder]


def _close_shards() -> None:
    while _open_shards:
        _, shards = _open_shards.popitem()
        for shard in shards:
            shard.close()


# LMDB's handles do not survive a fork: the child opens the files for itself.
os.register_at_fork(after_in_child=_close_shards)
