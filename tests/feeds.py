"""Feeds that misbehave in the worker processes, as a C library may on a broken file.

What a file does stands in its name: `hangs_0.mp4`, `crashes_1.mp4`.
"""

import ctypes
import os
import signal
from typing import Any

from mgm_dali.clips.draw import Decoding
from mgm_dali.pipelines.feed import ClipFeed


class TreacherousFeed(ClipFeed):
    """Reads as usual, unless the file's name says otherwise."""

    def read(self, decoding: Decoding) -> Any:
        name = self.manifest[decoding.row].path.name
        if name.startswith("hangs"):
            os.write(1, f"hangs {os.getpid()}\n".encode())  # whole, whoever else writes
            ctypes.PyDLL(None).sleep(600)  # in C, with Python's lock held
        if name.startswith("crashes"):
            os.kill(os.getpid(), signal.SIGSEGV)
        return super().read(decoding)


class DoomedFeed(ClipFeed):
    """Its processes are always killed, as by a kernel that has no memory left."""

    def read(self, decoding: Decoding) -> Any:
        del decoding
        os.kill(os.getpid(), signal.SIGKILL)
