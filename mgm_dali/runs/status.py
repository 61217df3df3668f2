"""Where a run stands, for whoever looks at it from outside: RUN/status.json, one small object."""

import contextlib
import functools
import json
import logging
import math
import os
import time
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import Annotated, Literal

from pydantic import Field, TypeAdapter, ValidationError

from mgm_dali.errors import UserError
from mgm_dali.files import write_whole

__all__ = ["RunStatus", "mark_ended", "read_status", "write_status"]

_LOGGER = logging.getLogger(__name__)

MAX_BYTES = 1 << 16
"""A file that is longer was not written here, and is not read."""
MAX_REASON = 4000
"""Characters of a reason that are kept."""

Count = Annotated[int, Field(ge=0)]
Number = Annotated[float, Field(allow_inf_nan=False)]


@dataclass(frozen=True)
class RunStatus:
    """What the first rank knows at one moment; what it does not know yet, or no more, is None."""

    stage: str
    state: Literal["training", "stopped", "failed", "finished"]
    """`stopped` can go on with the same command, `failed` needs a repair first."""
    step: Count
    """Optimiser steps done."""
    steps: Count
    """Optimiser steps of the whole run."""
    loss: Number | None = None
    clips_per_second: Number | None = None
    data_wait_share: Number | None = None
    """Share of the time in which the first rank waited for data, 0 to 1."""
    eta_seconds: Number | None = None
    """Time left at this speed."""
    reason: str | None = None
    """Why it stopped or failed."""
    host: str = field(default_factory=lambda: os.uname().nodename)
    pid: Count = field(default_factory=os.getpid)
    updated: Number = field(default_factory=time.time)
    """Unix time in seconds."""


_STATUS = TypeAdapter(RunStatus)


def write_status(run: Path, status: RunStatus) -> None:
    """Replaces RUN/status.json whole. A disk that refuses is said once, and ends nothing."""
    values = {name: _plain(value) for name, value in asdict(status).items()}
    try:
        write_whole(run / "status.json", json.dumps(values, indent=1) + "\n")
    except OSError as error:
        _warn_once(
            f"{run / 'status.json'}: cannot be written ({error.strerror or error}); the run goes "
            "on, but `mgm-dali runs` does not see how far it is"
        )


def read_status(run: Path) -> RunStatus | None:
    """What was written last; None if nothing was.

    Raises `UserError` if the file cannot be read or is not one that `write_status` wrote. Keys
    that a later version may add are passed over.
    """
    path = run / "status.json"
    try:
        if not path.exists():
            return None
        if not path.is_file():  # a pipe would wait for somebody who writes
            raise UserError(f"{path}: is not a file; remove it")
        with path.open("rb") as file:
            content = file.read(MAX_BYTES + 1)
    except OSError as error:
        raise UserError(f"{path}: cannot be read ({error.strerror or error})") from None
    if len(content) > MAX_BYTES:
        raise UserError(f"{path}: has more than {MAX_BYTES} bytes, no run wrote it; remove it")
    try:
        return _STATUS.validate_json(content, strict=True)
    except ValidationError as error:
        problem = error.errors(include_input=False, include_url=False)[0]
        key = ".".join(str(part) for part in problem["loc"])
        raise UserError(
            f"{path}: is damaged ({f'{key}: ' if key else ''}{problem['msg']}); remove it, or "
            "resume the run, which writes it anew"
        ) from None


def mark_ended(run: Path, reason: str) -> None:
    """Says that a run has failed, for a process that ends without its main thread."""
    with contextlib.suppress(UserError):  # it is not there, or damaged: nobody misses it now
        if status := read_status(run):
            write_status(run, replace(status, state="failed", reason=reason, updated=time.time()))


def _plain(value: object) -> object:
    """As JSON has it: no number that is none, and text that any reader takes."""
    if isinstance(value, float) and not math.isfinite(value):
        return None
    if isinstance(value, str):  # a reason may name a file whose name is no UTF-8
        return value[:MAX_REASON].encode(errors="backslashreplace").decode()
    return value


@functools.cache
def _warn_once(message: str) -> None:
    _LOGGER.warning(message)
