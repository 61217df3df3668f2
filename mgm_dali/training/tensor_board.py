"""RUN/tensorboard: the run as TensorBoard shows it.

torch's own writer hands everything to a thread, which ends at the first full disk. So records are
written here, at once and each whole or not at all; what is in them is made by the libraries.
"""

import io
import os
import socket
import textwrap
import time
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from tensorboard.compat.proto.event_pb2 import Event, SessionLog
from tensorboard.compat.proto.summary_pb2 import Summary
from torch.utils.tensorboard import RecordWriter
from torch.utils.tensorboard import summary as summaries

from mgm_dali.files import append_whole

__all__ = ["TensorBoard"]


class TensorBoard:
    """One file of events in `folder`. All methods raise `OSError` where it cannot be written."""

    name = "TensorBoard"

    def __init__(self, folder: Path, first_step: int) -> None:
        """Whatever was shown behind `first_step` is forgotten."""
        # TensorBoard reads the files of a folder in the order of their names.
        name = f"events.out.tfevents.{time.time_ns()}.{socket.gethostname()}.{os.getpid()}"
        self._path = folder / name
        began = SessionLog(status=SessionLog.START)
        self._opening = _records(
            Event(file_version="brain.Event:2"),
            Event(step=first_step + 1, session_log=began),
        )
        """Goes before the first record."""

    def scalars(self, values: dict[str, float], step: int) -> None:
        """Numbers by their tag."""
        named = [Summary.Value(tag=tag, simple_value=value) for tag, value in values.items()]
        self._write(Summary(value=named), step)

    def picture(self, tag: str, image: NDArray[np.uint8], step: int) -> None:
        """uint8 `[H, W, 3]`."""
        summary = summaries.image(tag, image, dataformats="HWC")  # type: ignore[no-untyped-call]
        self._write(summary, step)

    def text(self, tag: str, value: str, step: int) -> None:
        """Lines as they are: indented, or TensorBoard would read them as Markdown."""
        shown = textwrap.indent(value.encode(errors="replace").decode(), "    ")
        self._write(summaries.text(tag, shown), step)  # type: ignore[no-untyped-call]

    def close(self, *, failed: bool) -> None:
        """Nothing is left: all is written."""

    def _write(self, summary: Summary, step: int) -> None:
        record = _records(Event(step=step, summary=summary))
        append_whole(self._path, self._opening + record)
        self._opening = b""


def _records(*events: Event) -> bytes:
    """Events as they lie in a file, with the time that it is now."""
    file = io.BytesIO()
    for event in events:
        event.wall_time = time.time()
        RecordWriter(file).write(event.SerializeToString())
    return file.getvalue()
