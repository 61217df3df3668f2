"""`mgm-dali runs`: the training runs below a folder, what each does now, and how far it is."""

import json
import math
import os
import time
from collections.abc import Collection
from dataclasses import asdict
from pathlib import Path

from rich.console import Console
from rich.table import Table
from rich.text import Text

from mgm_dali.errors import UserError
from mgm_dali.in_words import printable, span
from mgm_dali.plain_table import print_line, print_table
from mgm_dali.runs.rows import RunRow, find_runs, read_runs

__all__ = ["list_runs"]

STYLES = {"running": "green", "finished": "", "ended": "", "stopped": "yellow", "silent": "yellow"}
"""All others are red."""


def list_runs(folder: Path, *, as_json: bool = False) -> None:
    """Prints a table of the runs below `folder`, the one that lived last first, or a JSON array.

    Raises `UserError` if there is no such folder.
    """
    if not folder.is_dir():
        raise UserError(f"{folder}: no such folder; name the one that your runs are in")
    found, passed_over = find_runs(folder)
    rows = read_runs(found)
    for note in passed_over:
        print_line(Console(stderr=True), printable(note))
    console, now = Console(), time.time()
    if as_json:
        print_line(console, json.dumps([_as_json(row) for row in rows], indent=1))
    elif rows:
        _print_table(rows, now, console)
        for row in rows:
            if reason := _explain(row, now):
                print_line(console, printable(reason))
    else:
        print_line(
            console,
            f"{printable(str(folder))}: no runs below (a run is a folder with config.yaml and "
            "status.json or metrics.jsonl)",
        )


def _as_json(row: RunRow) -> dict[str, object]:
    """JSON has no number that is none."""
    values = asdict(row)
    lost = [key for key, v in values.items() if isinstance(v, float) and not math.isfinite(v)]
    return values | dict.fromkeys(lost)


def _print_table(rows: Collection[RunRow], now: float, console: Console) -> None:
    table = Table(box=None, pad_edge=False, padding=(0, 1, 0, 0))
    table.add_column("run", overflow="fold")
    table.add_column("stage", no_wrap=True)
    table.add_column("state", overflow="fold")
    for name in ("step", "loss", "clips/s", "waiting", "saved"):
        table.add_column(name, justify="right", no_wrap=True)
    table.add_column("left/seen", no_wrap=True)
    for row in rows:
        table.add_row(*_cells(row, now))
    print_table(console, table)


def _cells(row: RunRow, now: float) -> list[Text]:
    def number(value: float | None, form: str) -> str:
        return "-" if value is None else format(value, form)

    age = span(now - row.last_sign)
    running, state = row.state == "running", row.state
    if running and row.host not in (None, os.uname().nodename):
        state = f"running on {row.host}"
    left = running and row.eta_seconds is not None
    cells = [
        row.run,
        row.stage or "-",
        state,
        number(row.step, "d") + ("" if row.steps is None else f"/{row.steps}"),
        number(row.loss, ".4g"),
        number(row.clips_per_second, ".1f"),
        number(row.data_wait_share, ".0%"),
        number(row.newest_checkpoint, "d"),
        f"{span((row.eta_seconds or 0) - now + row.last_sign)} left" if left else f"{age} ago",
    ]
    texts = [Text(printable(cell)) for cell in cells]
    texts[2].stylize(STYLES.get(row.state, "red"))
    return texts


def _explain(row: RunRow, now: float) -> str | None:
    """What a reader should know of a run that is not well."""
    if row.newest_checkpoint is None:
        resume = "it has no checkpoint, and the same command begins anew"
    else:
        resume = f"the same command goes on behind step {row.newest_checkpoint}"
    if row.state == "died":
        return f"{row.run}: process {row.pid} on {row.host} ended without a word; {resume}"
    if row.state == "silent":
        age = span(now - row.last_sign)
        return f"{row.run}: {row.host} is silent for {age}; if nothing is left there, {resume}"
    if row.state in ("stopped", "failed") and row.reason:
        return f"{row.run}: {row.state}: {row.reason}"
    return row.reason if row.state == "damaged" else None
