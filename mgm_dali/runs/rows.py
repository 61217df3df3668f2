"""What the training runs below a folder do now: `RunRow`, from the few small files of each."""

import os
import time
from collections.abc import Collection
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Annotated

from pydantic import Field, TypeAdapter

from mgm_dali.errors import UserError
from mgm_dali.runs.checkpoint_files import complete_steps
from mgm_dali.runs.held_locks import HeldLock, held_locks, is_locked
from mgm_dali.runs.status import RunStatus, read_status

__all__ = ["RunRow", "find_runs", "read_runs"]

OWN_FOLDERS = {"checkpoints", "tensorboard", "wandb", "weights"}
"""Of a run: large, and no place for another."""
SILENT_SECONDS = 1800.0
"""A run on another machine that has said nothing for so long has ended, as far as can be seen:
between two lines of the log it takes a few steps, a save and a judgement at most."""
TAIL_BYTES = 1 << 16


@dataclass(frozen=True)
class RunRow:
    """One run as it is listed; None where nobody wrote it down."""

    run: str
    """Its folder."""
    state: str
    """running, silent (on another host), died, stopped, failed, finished, ended (of a run that kept
    no status) or damaged."""
    last_sign: float
    """Unix time in seconds of the newest thing that the run wrote."""
    stage: str | None = None
    step: int | None = None
    steps: int | None = None
    loss: float | None = None
    clips_per_second: float | None = None
    data_wait_share: float | None = None
    eta_seconds: float | None = None
    newest_checkpoint: int | None = None
    """Step of the newest complete one."""
    host: str | None = None
    pid: int | None = None
    reason: str | None = None


@dataclass(frozen=True)
class _MetricsLine:
    """What is taken of the last line of metrics.jsonl."""

    step: Annotated[int, Field(ge=0)]
    loss: float | None = None
    clips_per_second: float | None = None
    data_wait_share: float | None = None


_METRICS_LINE = TypeAdapter(_MetricsLine)


def find_runs(folder: Path) -> tuple[list[Path], list[str]]:
    """The run folders from `folder` downwards, and a line for each folder that was not looked into.

    A link to a run counts as one, unless the run is found without it; other links are not followed,
    for they may lead in circles or all over the disk. Hidden folders are passed over.
    """
    runs: list[Path] = []
    links: list[Path] = []
    notes: list[str] = []
    pending = [folder]
    while pending:
        here = pending.pop()
        try:
            own = OWN_FOLDERS if _is_run(here) else ()
            with os.scandir(here) as entries:
                folders = [e for e in entries if _is_folder(e) and not e.name.startswith(".")]
        except OSError as error:
            notes.append(f"{here}: not looked into ({error.strerror})")
            continue
        if own:
            runs.append(here)
        links += (Path(e) for e in folders if e.is_symlink())
        pending += (Path(e) for e in folders if not e.is_symlink() and e.name not in own)
    known = {run.resolve() for run in runs}
    for link in sorted(links):
        if not _is_run(link):
            notes.append(f"{link}: a link, not followed; to list what is in it, name it")
        elif link.resolve() not in known:
            known.add(link.resolve())
            runs.append(link)
    return sorted(runs), sorted(notes)


def _is_folder(entry: os.DirEntry[str]) -> bool:
    if entry.is_symlink():
        return Path(entry).is_dir()  # False if it links to itself, where the entry raises
    return entry.is_dir()


def _is_run(folder: Path) -> bool:
    def has(name: str) -> bool:
        return os.path.lexists(folder / name)

    return has("config.yaml") and (has("status.json") or has("metrics.jsonl"))


def read_runs(runs: Collection[Path]) -> list[RunRow]:
    """A row for each run folder, the one that lived last first. A damaged one is a row too."""
    # A run that ends or starts while we read is no dead one: locks are looked at before and after.
    before = held_locks()
    read = [(run, _read(run)) for run in runs]
    after = held_locks()
    locks = None if before is None or after is None else before | after
    rows = [_row(run, found, locks, time.time()) for run, found in read]
    return sorted(rows, key=lambda row: -row.last_sign)


@dataclass(frozen=True)
class _Found:
    """What lies in a run folder."""

    status: RunStatus | None
    metrics: _MetricsLine | None
    checkpoints: list[int]
    written: float
    """Unix time of the newest change that can be seen."""


def _read(run: Path) -> _Found | str:
    """What lies there, or why it cannot be understood."""
    try:
        status = read_status(run)
        metrics = None if status else _last_line(run / "metrics.jsonl")
        return _Found(status, metrics, complete_steps(run), _written(run))
    except OSError as error:
        return f"{error.filename or run}: {error.strerror or error}"
    except ValueError as error:  # UserError too
        return str(error)


def _row(run: Path, found: _Found | str, locks: Collection[HeldLock] | None, now: float) -> RunRow:
    if isinstance(found, str):
        return RunRow(str(run), "damaged", _written(run), reason=found)
    newest = found.checkpoints[-1] if found.checkpoints else None
    status, pid = found.status, found.status.pid if found.status else None
    held = locks is not None and is_locked(run / "lock", locks, pid)
    if status is None:
        numbers = asdict(found.metrics) if found.metrics else {}
        state = "running" if held else "ended"
        return RunRow(str(run), state, found.written, newest_checkpoint=newest, **numbers)
    values = asdict(status)
    values["last_sign"] = values.pop("updated")
    if held:
        values["state"] = "running"
    elif status.state == "training":
        values["state"] = _unlocked_state(status, now, here=locks is not None)
    return RunRow(run=str(run), newest_checkpoint=newest, **values)


def _unlocked_state(status: RunStatus, now: float, *, here: bool) -> str:
    """Of a run that says it trains, and whose lock nobody holds, as far as this machine can see."""
    if here and status.host == os.uname().nodename:
        return "died"
    return "running" if now - status.updated < SILENT_SECONDS else "silent"


def _last_line(path: Path) -> _MetricsLine | None:
    """The newest line that is whole; None if there is none yet. The file may be of any size."""
    if path.exists() and not path.is_file():
        raise UserError(f"{path}: is not a file; remove it")
    with path.open("rb") as file:
        size = file.seek(0, os.SEEK_END)
        file.seek(max(size - TAIL_BYTES, 0))
        tail = file.read(TAIL_BYTES)
    for line in reversed(tail.splitlines()):
        try:
            return _METRICS_LINE.validate_json(line, strict=True)
        except ValueError:
            continue  # half-written when the run was killed
    if size:
        raise UserError(f"{path}: its last {len(tail)} bytes hold no line of a run; move it away")
    return None


def _written(run: Path) -> float:
    times = [0.0]
    for name in ("config.yaml", "status.json", "metrics.jsonl"):
        try:
            times.append((run / name).stat().st_mtime)
        except OSError:
            continue
    return max(times)
