"""Runs one section in a process of its own, ends it when its time is over, and keeps its word."""

import contextlib
import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from gpu.setting import ROOT, Setting

__all__ = ["BAD_STATES", "Section", "left_over", "run_section"]

TAIL_CHARACTERS = 6000
"""Of its output that are kept of a section that did not come to its end."""
LOOK_SECONDS = 1.0
SECONDS_TO_LEAVE = 20.0
"""Between a section's last word and the end of its process."""
SECONDS_TO_DIE = 15
BAD_STATES = ("failed", "died", "hung")
"""Of a section that did not come to its end though it had its time."""


@dataclass(frozen=True)
class Section:
    """A line of `SECTIONS`."""

    title: str
    function: str
    """`module:function`, called with a `Setting` and the `Findings`."""
    limit_seconds: float


def run_section(
    section: Section, setting: Setting, found: Path, is_over: Callable[[], bool] = lambda: False
) -> dict[str, Any]:
    """What became of a section: its state, and all it found until then, which it writes to `found`.

    It is ended when its time is over, or when `is_over` says so.
    """
    log = setting.folder / found.with_suffix(".log").name
    found.unlink(missing_ok=True)
    start = time.monotonic()
    command = [sys.executable, "-m", "gpu.section", section.function, setting.to_json(), str(found)]
    with log.open("wb") as output:
        process = subprocess.Popen(
            command,
            stdin=subprocess.DEVNULL,
            stdout=output,
            stderr=subprocess.STDOUT,
            start_new_session=True,
            env=_environment(setting.folder),
        )
        try:
            status = _wait(process, found, setting.seconds, is_over)
        finally:
            _end_group(process)
    outcome = {
        "title": section.title,
        "limit_seconds": round(setting.seconds),
        **_found(found),
        "seconds": round(time.monotonic() - start, 1),
    }
    has_its_time = setting.seconds >= section.limit_seconds and not is_over()
    outcome |= _verdict(outcome, status, "hung" if has_its_time else "cut off")
    if outcome["state"] not in ("done", "cannot run"):
        text = log.read_text(errors="replace")
        outcome["log_tail"] = text[-TAIL_CHARACTERS:].replace(str(setting.folder), "FOLDER")
    outcome.pop("doing", None)
    return outcome


def left_over(section: Section, found: Path) -> dict[str, Any]:
    """What became of a section, by its file alone: whoever ran it was killed."""
    outcome = {"title": section.title, "seconds": None, **_found(found)}
    doing = outcome.pop("doing", "")
    if outcome["state"] == "begun":
        at = f", at: {doing}" if doing else ""
        outcome |= {"state": "cut off", "reason": f"the call was killed{at}"}
    return outcome


def _wait(
    process: subprocess.Popen[bytes], found: Path, seconds: float, is_over: Callable[[], bool]
) -> int | None:
    """The exit status; None if it is still there after its time, or long after its last word."""
    deadline = time.monotonic() + seconds
    while (left := deadline - time.monotonic()) > 0 and not is_over():
        try:
            return process.wait(min(left, LOOK_SECONDS))
        except subprocess.TimeoutExpired:
            if _found(found)["state"] != "begun":
                deadline = min(deadline, time.monotonic() + SECONDS_TO_LEAVE)
    return None


def _environment(folder: Path) -> dict[str, str]:
    """Modules of this folder, the tests' and the project's; no core shared by idle threads."""
    temporary = folder / "tmp"
    temporary.mkdir(parents=True, exist_ok=True)
    paths = [ROOT / "scripts", ROOT / "tests", ROOT, os.environ.get("PYTHONPATH", "")]
    return {
        **os.environ,
        "PYTHONPATH": os.pathsep.join(str(path) for path in paths if path),
        "PYTHONUNBUFFERED": "1",
        "OMP_WAIT_POLICY": "PASSIVE",
        "TMPDIR": str(temporary),  # what a killed section leaves there goes with the folder
    }


def _end_group(process: subprocess.Popen[bytes]) -> None:
    """Kills the process and all it has started."""
    with contextlib.suppress(ProcessLookupError):
        os.killpg(process.pid, signal.SIGKILL)
    with contextlib.suppress(subprocess.TimeoutExpired):  # a process may hang in the driver
        process.wait(SECONDS_TO_DIE)


def _found(path: Path) -> dict[str, Any]:
    try:
        found: dict[str, Any] = json.loads(path.read_bytes())
    except (OSError, ValueError):
        return {"state": "begun", "reason": "", "checks": [], "figures": {}, "notes": []}
    return found


def _verdict(outcome: dict[str, Any], status: int | None, ended_as: str) -> dict[str, Any]:
    """State and reason, with what only the process's end can tell; `ended_as` if we ended it."""
    state, doing = outcome["state"], outcome.get("doing")
    at = f", at: {doing}" if doing else ""
    ended = "did not leave" if status is None else _in_words(status)
    if state == "begun":
        if status is None:
            return {"state": ended_as, "reason": f"ended after {outcome['seconds']:.0f} s{at}"}
        return {"state": "died", "reason": f"its process {ended}{at}"}
    if status not in (0, 1):  # its work was done, and leaving was not
        return {"notes": [*outcome["notes"], f"behind its last word the process {ended}"]}
    return {}


def _in_words(status: int) -> str:
    if status >= 0:
        return f"ended with status {status}"
    try:
        return f"was killed by {signal.Signals(-status).name}"
    except ValueError:
        return f"was killed by signal {-status}"
