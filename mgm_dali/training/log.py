"""What a run tells people: a progress bar on a terminal, plain lines everywhere else.

RUN/train.log        every line, with its time
RUN/skipped.csv      path,reason of clips that could not be read
"""

import csv
import io
import sys
import time
from collections.abc import Iterable
from pathlib import Path
from types import TracebackType

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

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self._progress.stop()

    def line(self, text: str) -> None:
        """One line for people, on the console and in train.log."""
        if not self._speaks:
            return
        self._console.print(text, markup=False, highlight=False, soft_wrap=True)
        with (self._folder / "train.log").open("a", encoding="utf-8") as file:
            file.write(f"{time.strftime('%Y-%m-%d %H:%M:%S')} {text}\n")

    def advance(self, done: int, description: str = "") -> None:
        """Moves the progress bar."""
        self._progress.update(self._task, completed=done, description=description)

    def skipped(self, clips: Iterable[tuple[Path, str]]) -> None:
        """Adds this rank's unreadable clips to skipped.csv, each file once, and says so."""
        new = {str(path): reason for path, reason in clips if str(path) not in self._skipped_before}
        if not new:
            return
        self._skipped_before.update(new)
        table = self._folder / "skipped.csv"
        rows = io.StringIO()
        writer = csv.writer(rows, lineterminator="\n")
        if not table.exists():
            writer.writerow(("path", "reason"))
        writer.writerows(new.items())
        with table.open("a", encoding="utf-8") as file:  # one write: ranks do not mix their lines
            file.write(rows.getvalue())
        for path, reason in new.items():
            self.line(f"skipped {path}: {reason}")
