"""Memory in which worker processes hand over arrays, one slot for each decoding that is under way.

    slot 0              slot 1              slot 2
    row | arrays ...    row | arrays ...    row | arrays ...

One unnamed file of this process holds all slots far apart, mostly as holes; workers reach it
through /proc. It is no part of /dev/shm, which containers keep small, and ends with its process.
A worker first writes which row of the manifest it reads: if it dies, that tells the culprit.
"""

import errno
import mmap
import os
import struct
from collections.abc import Sequence
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

__all__ = ["Placed", "SharedSlots", "SlotWriter"]

SLOT_BYTES = 1 << 33
"""From one slot to the next, and the most that it can hold; only what is written takes memory."""
HEAD_BYTES = 64
ALIGNMENT_BYTES = 64
KEPT_BYTES = 64 << 20
"""More than this is given back when a slot is done with: few videos are so large."""
_ROW = struct.Struct("<q")


class Placed(NamedTuple):
    """Where an array lies in its slot."""

    dtype: str
    shape: tuple[int, ...]
    start: int


class SharedSlots:
    """The slots, for the process that owns them; `close` them in the end."""

    def __init__(self, count: int) -> None:
        self._file = os.memfd_create("mgm-dali-slots")
        os.truncate(self._file, count * SLOT_BYTES)
        # One map for all: each would keep a file open.
        self._memory = mmap.mmap(self._file, count * SLOT_BYTES)
        self._used_bytes = [0] * count
        self.path = f"/proc/{os.getpid()}/fd/{self._file}"
        """What a `SlotWriter` opens."""

    def close(self) -> None:
        """Gives the memory back once no worker and no array holds it any more."""
        os.close(self._file)

    def clear_row(self, slot: int) -> None:
        """Forgets what was read last."""
        os.pwrite(self._file, _ROW.pack(0), slot * SLOT_BYTES)

    def row(self, slot: int) -> int | None:
        """The row that is read into a slot, None if it is not known yet."""
        (number,) = _ROW.unpack(os.pread(self._file, _ROW.size, slot * SLOT_BYTES))
        return number - 1 if number else None

    def arrays(self, slot: int, placed: Sequence[Placed]) -> list[NDArray[Any]]:
        """What a slot holds, in place: valid until the slot is written again."""
        self._used_bytes[slot] = max(one.start + _num_bytes(one) for one in placed)
        return [
            np.ndarray(
                one.shape,
                np.dtype(one.dtype),
                buffer=self._memory,
                offset=slot * SLOT_BYTES + one.start,
            )
            for one in placed
        ]

    @property
    def held_bytes(self) -> int:
        """Memory that the slots take at this moment."""
        return os.fstat(self._file).st_blocks * 512

    def release(self, slot: int) -> None:
        """Gives the memory of an unusually large clip back."""
        if self._used_bytes[slot] > KEPT_BYTES:
            start, length = slot * SLOT_BYTES, self._used_bytes[slot]
            self._memory.madvise(mmap.MADV_REMOVE, start, length)


class SlotWriter:
    """The same slots, for a worker process."""

    def __init__(self, path: str) -> None:
        self._file = os.open(path, os.O_RDWR)

    def take(self, slot: int, row: int) -> None:
        """Says which row will be read into a slot."""
        os.pwrite(self._file, _ROW.pack(row + 1), slot * SLOT_BYTES)

    def write(self, slot: int, arrays: Sequence[NDArray[Any]]) -> list[Placed]:
        """Copies arrays into a slot. Raises `OSError` if they are too large, or memory is short."""
        placed, start = [], HEAD_BYTES
        if sum(array.nbytes + ALIGNMENT_BYTES for array in arrays) > SLOT_BYTES - HEAD_BYTES:
            raise OSError(errno.EFBIG, f"a clip is larger than {SLOT_BYTES >> 30} GiB")
        for array in arrays:
            placed.append(Placed(array.dtype.str, array.shape, start))
            data = np.ascontiguousarray(array).reshape(-1).view(np.uint8).data
            written = 0
            while written < len(data):  # the kernel takes 2 GB at once
                written += os.pwrite(
                    self._file, data[written:], slot * SLOT_BYTES + start + written
                )
            start += -(-len(data) // ALIGNMENT_BYTES) * ALIGNMENT_BYTES
        return placed


def _num_bytes(placed: Placed) -> int:
    return int(np.prod(placed.shape)) * np.dtype(placed.dtype).itemsize
