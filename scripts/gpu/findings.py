"""What one section finds: checks, figures in tables, notes; written to its file at every step."""

import json
import math
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from gpu.programs import ProgramError
from gpu.setting import CannotRun
from mgm_dali.files import write_whole

__all__ = ["Findings", "in_a_line"]

LONGEST_TEXT = 600
"""Characters of a message that are kept; DALI's run to pages."""
LASTING = ("CUDA error", "cudaErrorIllegalAddress")
"""In messages of torch and of DALI behind which a process mostly cannot use the GPU any more."""


class Findings:
    """A check is a claim that holds or not; a figure is a row of a table, and no verdict."""

    def __init__(self, path: Path) -> None:
        self._path = path
        self._content: dict[str, Any] = {
            "state": "begun",
            "reason": "",
            "doing": "",
            "checks": [],
            "figures": {},
            "notes": [],
        }
        self._save()

    def doing(self, what: str) -> None:
        """What comes next: if the process dies of it, this names the culprit."""
        self._content["doing"] = what
        self._save()

    def check(self, what: str, passed: bool, found: str = "") -> None:
        """Keeps a verdict, and what it rests on."""
        self._content["checks"].append({"what": what, "passed": bool(passed), "found": found})
        self._save()

    def figure(self, table: str, row: Mapping[str, object]) -> None:
        """Adds a row; its keys are the columns."""
        plain = {column: _plain(value) for column, value in row.items()}
        self._content["figures"].setdefault(table, []).append(plain)
        self._save()

    def note(self, text: str) -> None:
        """Adds a line for people."""
        self._content["notes"].append(text)
        self._save()

    @contextmanager
    def claim(self, what: str) -> Iterator[list[str]]:
        """A check of what the block does: it must not raise. Yields a list for what was found.

        An error of the GPU itself ends the section: all that follows would fail with it.
        """
        self.doing(what)
        found: list[str] = []
        try:
            yield found
        except CannotRun:
            raise
        except Exception as error:  # whatever a library may raise is the finding
            self.check(what, False, "; ".join([*found, in_a_line(error)]))
            if _lasts(error):
                raise
        else:
            self.check(what, True, "; ".join(found))

    @contextmanager
    def row(self, table: str, known: Mapping[str, object]) -> Iterator[dict[str, object]]:
        """A row of which `known` is given and the block adds the rest; or why it could not.

        An error of the GPU itself ends the section.
        """
        self.doing(f"{table}: " + ", ".join(f"{name} {value}" for name, value in known.items()))
        row = dict(known)
        try:
            yield row
        except CannotRun:
            raise
        except Exception as error:  # the other rows are still worth having
            row["not measured"] = in_a_line(error)
            if _lasts(error):
                self.figure(table, row)
                raise
        self.figure(table, row)

    def end(self, state: str, reason: str = "") -> None:
        """The last word: `done`, `failed` or `cannot run`."""
        self._content |= {"state": state, "reason": reason, "doing": ""}
        self._save()

    def _save(self) -> None:
        write_whole(self._path, json.dumps(self._content, indent=1))


def in_a_line(error: BaseException) -> str:
    """The kind of an error and what it says, in one line."""
    text = " ".join(str(error).split())
    return f"{type(error).__name__}: {text}"[:LONGEST_TEXT]


def _lasts(error: BaseException) -> bool:
    in_this_process = not isinstance(error, ProgramError)
    return in_this_process and any(words in str(error) for words in LASTING)


def _plain(value: object) -> object:
    """As JSON can hold it: numbers of numpy and torch become Python's, NaN becomes text."""
    item = getattr(value, "item", None)
    if callable(item):
        value = item()
    if isinstance(value, float) and not math.isfinite(value):
        return str(value)
    if value is None or isinstance(value, bool | int | float | str):
        return value
    return str(value)
