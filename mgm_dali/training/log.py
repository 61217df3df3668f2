"""What a run tells people: a progress bar on a terminal, plain lines everywhere else.

RUN/train.log        every line, with its time
RUN/skipped.csv      path,reason of clips that could not be read
"""

import csv
import io
import logging
import sys
import time
from collections.abc import Iterable
from pathlib import Path
from typing import TextIO, cast

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn
from typing_extensions import Self

from mgm_dali.files import require_file_if_any

__all__ = ["RunLog"]

_LOGGER = logging.getLogger("mgm_dali")


class RunLog:
    """The log of one run; only the first rank speaks, but any rank may add to skipped.csv.

    While it is open, what the project's parts say through `logging` goes through it.
    """

    def __init__(self, folder: Path, rank: int, total: int, done: int = 0) -> None:
        """`total` and `done` are the length and the start of the progress bar."""
        folder.mkdir(parents=True, exist_ok=True)
        self._folder = folder
        self._rank = rank
        self._skipped_before = _paths_in(folder / "skipped.csv")
        self._unwritable: set[str] = set()
        """Names of files of which it was said that they cannot be written."""
        self._console = Console(stderr=True)
        self._progress = Progress(
            TextColumn("{task.description}"),
            BarColumn(),
            MofNCompleteColumn(),
            TimeRemainingColumn(),
            console=self._console,
            disable=rank > 0 or not sys.stderr.isatty(),
        )
        self._task = self._progress.add_task("", total=total, completed=done)
        self._handler = _Handler(self)

    def __enter__(self) -> Self:
        self._progress.start()
        _LOGGER.addHandler(self._handler)
        return self

    def __exit__(self, *_: object) -> None:
        _LOGGER.removeHandler(self._handler)
        self._progress.stop()

    def line(self, text: str) -> None:
        """One line for people, on the console and in train.log."""
        if self._rank == 0:
            self._write(text)

    def warn(self, text: str) -> None:
        """A line that any rank may say."""
        self._write(f"rank {self._rank}: {text}" if self._rank else text)

    def advance(self, done: int, description: str = "") -> None:
        """Moves the progress bar."""
        self._progress.update(self._task, completed=done, description=description)

    def _write(self, text: str) -> None:
        self._print(text)
        self._append("train.log", f"{time.strftime('%Y-%m-%d %H:%M:%S')} {text}\n")

    def skipped(self, clips: Iterable[tuple[Path, str]]) -> None:
        """Adds this rank's unreadable clips to skipped.csv, each file once."""
        new = {str(path): reason for path, reason in clips if str(path) not in self._skipped_before}
        if not new:
            return
        self._skipped_before.update(new)
        rows = io.StringIO()
        csv.writer(rows, lineterminator="\n").writerows(new.items())
        self._append("skipped.csv", "path,reason\n", "x")
        self._append("skipped.csv", rows.getvalue())

    def _append(self, name: str, text: str, mode: str = "a") -> None:
        """In one write: ranks do not mix their lines. A full disk is no reason to end a run."""
        try:
            with _open_text(self._folder / name, mode) as file:
                file.write(text)
        except FileExistsError:
            return
        except OSError as error:
            if name not in self._unwritable:
                self._unwritable.add(name)
                what = (
                    f"{self._folder / name}: cannot be written ({error.strerror}); the run goes on"
                )
                self._print(what)

    def _print(self, text: str) -> None:
        """What is printed may be read by a `tee` or a terminal that is gone: the run goes on."""
        try:
            self._console.print(text, markup=False, highlight=False, soft_wrap=True)
        except (OSError, SystemExit):  # rich ends the program when a pipe is broken
            self._console.quiet = True


class _Handler(logging.Handler):
    """What the project's parts say through `logging` becomes lines of the run."""

    def __init__(self, log: RunLog) -> None:
        super().__init__()
        self._log = log

    def emit(self, record: logging.LogRecord) -> None:
        try:
            self._log.warn(record.getMessage())
        except Exception:  # a full disk must not end what only wanted to say something
            self.handleError(record)


def _paths_in(table: Path) -> set[str]:
    """What an earlier part of the run has listed."""
    if not table.exists():
        return set()
    try:
        with _open_text(table, "r") as file:
            return {row[0] for row in csv.reader(file) if row}
    except csv.Error:  # somebody else's table: its files may be listed twice
        return set()


def _open_text(path: Path, mode: str) -> TextIO:
    """Names of files may be any bytes: those that are no UTF-8 pass unharmed."""
    require_file_if_any(path)
    return cast(TextIO, path.open(mode, encoding="utf-8", errors="surrogateescape"))
