"""What a run tells people: a progress bar on a terminal, plain lines everywhere else.

RUN/train.log        every line, with its time
RUN/skipped.csv      path,reason of clips that could not be read
"""

import contextlib
import csv
import io
import sys
import time
from collections.abc import Iterable
from pathlib import Path
from typing import TextIO, cast

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn
from typing_extensions import Self

__all__ = ["RunLog"]


class RunLog:
    """The log of one run; only the first rank speaks, but any rank may add to skipped.csv."""

    def __init__(self, folder: Path, rank: int, total: int, done: int = 0) -> None:
        """`total` and `done` are the length and the start of the progress bar."""
        folder.mkdir(parents=True, exist_ok=True)
        self._folder = folder
        self._speaks = rank == 0
        self._skipped_before: set[str] = set()
        self._console = Console(stderr=True)
        self._progress = Progress(
            TextColumn("{task.description}"),
            BarColumn(),
            MofNCompleteColumn(),
            TimeRemainingColumn(),
            console=self._console,
            disable=not (self._speaks and sys.stderr.isatty()),
        )
        self._task = self._progress.add_task("", total=total, completed=done)

    def __enter__(self) -> Self:
        self._progress.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._progress.stop()

    def line(self, text: str) -> None:
        """One line for people, on the console and in train.log."""
        if not self._speaks:
            return
        self._console.print(text, markup=False, highlight=False, soft_wrap=True)
        with _open_text(self._folder / "train.log", "a") as file:
            file.write(f"{time.strftime('%Y-%m-%d %H:%M:%S')} {text}\n")

    def advance(self, done: int, description: str = "") -> None:
        """Moves the progress bar."""
        self._progress.update(self._task, completed=done, description=description)

    def skipped(self, clips: Iterable[tuple[Path, str]]) -> None:
        """Adds this rank's unreadable clips to skipped.csv, each file once.

        The first rank also says its own aloud; the number in each step's line counts all ranks'.
        """
        new = {str(path): reason for path, reason in clips if str(path) not in self._skipped_before}
        if not new:
            return
        self._skipped_before.update(new)
        table = self._folder / "skipped.csv"
        rows = io.StringIO()
        csv.writer(rows, lineterminator="\n").writerows(new.items())
        with contextlib.suppress(FileExistsError), _open_text(table, "x") as file:
            file.write("path,reason\n")
        with _open_text(table, "a") as file:
            file.write(rows.getvalue())  # one write: ranks do not mix their lines
        for path, reason in new.items():
            self.line(f"skipped {path}: {reason}")


def _open_text(path: Path, mode: str) -> TextIO:
    """Names of files may be any bytes: those that are no UTF-8 pass unharmed."""
    return cast(TextIO, path.open(mode, encoding="utf-8", errors="surrogateescape"))
