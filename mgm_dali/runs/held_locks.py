"""Which files are locked by whom, without touching a lock: the system's own list.

To try a lock is to hold it for a moment, if only as one of many readers. A run that starts in that
moment takes its lock without waiting, would find it taken, and would give up. So it is not tried.
"""

import os
from collections.abc import Collection
from dataclasses import dataclass
from pathlib import Path

__all__ = ["HeldLock", "held_locks", "is_locked"]

PROC_LOCKS = Path("/proc/locks")


@dataclass(frozen=True)
class HeldLock:
    """A whole file that one process holds for itself (flock, LOCK_EX)."""

    pid: int
    device: int
    """As `os.stat` numbers it."""
    inode: int


def held_locks() -> frozenset[HeldLock] | None:
    """The locks of this machine that this process may know of; None if the system does not tell.

    Other machines' are not among them, nor those of other containers.
    """
    try:
        lines = PROC_LOCKS.read_text(encoding="ascii", errors="replace").splitlines()
    except OSError:
        return None
    locks = set()
    for line in lines:  # "1: FLOCK ADVISORY WRITE 2605 fe:00:2369950 0 EOF"; "->" if it waits
        match line.split():
            case [_, "FLOCK", _, "WRITE", pid, place, *_] if place.count(":") == 2:
                major, minor, inode = place.split(":")
                device = os.makedev(int(major, 16), int(minor, 16))
                locks.add(HeldLock(int(pid), device, int(inode)))
    return frozenset(locks)


def is_locked(path: Path, locks: Collection[HeldLock], pid: int | None = None) -> bool:
    """Whether one of these locks is on this file, which need not exist.

    `pid` is who is supposed to hold it: btrfs and overlays tell `os.stat` another device than they
    tell the list of locks, and there the same process with the same inode must do.
    """
    try:
        file = path.stat()
    except OSError:
        return False
    return any(
        lock.inode == file.st_ino and (lock.device == file.st_dev or lock.pid == pid)
        for lock in locks
    )
